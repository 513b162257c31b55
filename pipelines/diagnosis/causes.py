"""Why runs end, as a table: the words that tell of a cause, the sentence for it, and what to do."""

from pipelines.diagnosis.rules import Rule

LESS_MEMORY = (
    "take less memory: world.micro_batch_samples=auto (the global batch stays), world.recompute=true, a higher "
    "world.zero.stage or offload; `trainworks profile CONFIG` tells what a device needs. {again}"
)
PREPARE_AGAIN = (
    "restore that file, or remove data/manifest.json and prepare again; `trainworks verify RUN` names every bad file"
)
RAN_AWAY = (
    "lower train.optimizer.learning_rate, warm up for longer, or clip closer (train.clip_grad_norm), under another "
    "--name; or let the run mend it: train.anomalies.not_finite=skip, or rollback once there is a checkpoint"
)
_ANY = r"(?: in \w+| at its start)?"


def silent(phase: str, more: str) -> str:
    """The pattern of an incident of kind `silent`, given those of its phase and of where the rank stood."""
    return rf"silent for (?P<seconds>\d+) s(?P<phase>{phase})(?: of step \d+)?(?P<where>{more})"


RULES: tuple[Rule, ...] = (
    # what a user can mend in the command or the configuration
    Rule(
        "in use",
        r"(?<!\S)(?P<folder>\S+) is in use by process (?P<process>\S+);",
        "{folder} is in use: process {process} works there",
        "wait for that process or stop it, then give the same command again",
    ),
    Rule(
        "checkpoint of another run",
        r"^exit 2: (?P<reason>.*(?:checkpoint|step-\d+).*(?:belongs to|another|differ).*)",
        "the checkpoints of this folder are not of this configuration or data: {reason}",
        "choose another --name, or put back the settings that differ, then give the command again",
    ),
    Rule(
        "user error",
        r"^exit 2: (?P<reason>.*)",
        "the command asked for something that cannot be done: {reason}",
        "change what that line names, then give the command again",
    ),
    # the machine
    Rule(
        "shared memory short",
        r"insufficient shared memory|unable to (?:open|mmap|allocate) .*shared memory|/dev/shm.*(?:No space|full)"
        r"|killed by signal: Bus error|SIGBUS",
        "shared memory (/dev/shm) is too small; {who} failed in {stage} {when}",
        "mount a larger /dev/shm (an in-memory emptyDir in a pod) or set world.loader_workers=0. {again}",
    ),
    Rule(
        "disk full",
        r"(?:(?<!\S)(?P<path>/[^:]*): )?(?:\[Errno (?:28|122)\] )?"
        r"(?:[Nn]o space left|Disk quota exceeded|os error 28\b)"
        r"(?: on device: '(?P<file>[^']+))?",
        "the disk is full ({path}{file}): {who} could not write in {stage} {when}",
        "make room there or move the run to a larger disk. {again}",
    ),
    Rule(
        "disk broken",
        r"gives back other bytes|Input/output error|Stale file handle|\[Errno (?:5|116)\]|os error (?:5|116)\b",
        "the disk of the run folder fails: {clause}",
        "look at that disk or its server, or move the run to another one. {again}",
    ),
    Rule(
        "disk read-only",
        r"(?:(?<!\S)(?P<path>/[^:]*): )?(?:\[Errno (?:13|30)\] )?"
        r"(?:Read-only file system|Permission denied|os error (?:13|30)\b)(?:: '(?P<file>[^']+))?",
        "the disk cannot be written ({path}{file}): it is read-only, or the rights are missing",
        "mend the mount or the rights. {again}",
    ),
    Rule(
        "out of GPU memory",
        r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|HIP out of memory",
        "{who} asked for more than the device has, in {stage} {when}",
        LESS_MEMORY,
    ),
    Rule(
        "out of memory",
        r"killed by SIGKILL.*the kernel ran out of memory|\bMemoryError\b|out of memory at \S+:\d+"
        r"|DefaultCPUAllocator: can't allocate memory|std::bad_alloc|Cannot allocate memory"
        r"|Out of memory: Killed process|oom-kill|OOMKilled|Memory cgroup out of memory",
        "{who} needed more memory than the machine has, in {stage} {when}",
        LESS_MEMORY,
    ),
    Rule(
        "out of memory",
        r"killed by SIGKILL.*(?P<grown>; memory had grown [^;]*|; the log tells of memory)",
        "{who} was killed by SIGKILL in {stage} {when}{grown}",
        LESS_MEMORY,
        sure="likely",
    ),
    Rule(
        "loader killed",
        r"DataLoader worker \(pid[^)]*\) (?:is killed by signal: Killed|exited unexpectedly)",
        "a process that reads ahead for {who} was killed in {stage} {when}, mostly because memory is short",
        "set world.loader_workers=0 or give the machine more memory. {again}",
        sure="likely",
    ),
    # what was read or computed
    Rule(
        "loss not finite",
        r"(?<!\S)(?P<figure>[\w/.-]+) is (?P<value>[+-]?(?:nan|inf)) at step (?P<step>\d+)",
        "training ran away: {figure} is {value} {when}",
        RAN_AWAY,
    ),
    Rule(
        "loss not finite",
        r"step (?P<step>\d+) is not saved: (?P<figure>[^;]*) holds a NaN or an infinity",
        "training ran away: {figure} hold no numbers any more {when}",
        RAN_AWAY,
    ),
    Rule(
        "loss spike",
        r"(?<!\S)(?P<figure>[\w/.-]+) is (?P<value>[\d.e+-]+) at step (?P<step>\d+), above (?P<limit>[\d.e+-]+)",
        "training ran away: {figure} rose to {value} {when}, above {limit}",
        "look at the samples of that step, lower train.optimizer.learning_rate, or raise "
        "train.anomalies.spike_deviations. {again}",
    ),
    Rule(
        "stale checkpoint",
        r"step (?P<step>\d+) is not saved: every weight is the same as at step \d+",
        "a checkpoint was refused: {clause}",
        "see that something learns (train.optimizer.learning_rate, train.fine_tune); if it does, the copy that is "
        "saved is stale, a fault of the program. {again}",
    ),
    Rule(
        "damaged checkpoint",
        r"step-\d+(?:/[\w.-]+)?:? (?:sha256|its|cannot|holds|has|is not|it does|\w+ \S+ of )|SafetensorError"
        r"|the weights are of another network",
        "a checkpoint is damaged or of another network: {clause}",
        "remove that step's folder: the same command then takes the newest sound one. {again}",
    ),
    Rule(
        "damaged shard",
        r"shard (?P<file>\S+): (?P<reason>[^;]*)",
        "shard {file} is not what was prepared: {reason}",
        PREPARE_AGAIN,
    ),
    Rule(
        "damaged data",
        r"the manifest says|manifest differs|is not a manifest|is not what was (?:written|prepared)"
        r"|a sample's \.?\w+ field|ReadError\b|is not the tokenizer that made the shards"
        r"|was changed after it was written",
        "the prepared data is damaged: {clause}",
        PREPARE_AGAIN,
    ),
    Rule(
        "outage",
        r", for \d+ s\b(?=[^;]*; see whether the store is up)|\bHTTP (?:429|5\d\d)\b",
        "something outside could not be reached: {clause}",
        "see whether it is up and can be reached from this machine. {again}",
    ),
    # asked to end
    Rule(
        "preempted",
        r"stopped after step (?P<step>\d+) of (?P<steps>\d+), which is saved",
        "it was asked to stop (a preempted or drained node, a time limit, or Ctrl-C) and saved step {step} of {steps}",
        "{again}",
    ),
    Rule(
        "preempted",
        r"^(?:exit (?:130|143)\b|stopped\b|stopped by (?:SIGTERM|SIGINT|SIGHUP)|.*killed by (?:SIGTERM|SIGINT|SIGHUP))",
        "it was asked to stop (a preempted or drained node, a time limit, or Ctrl-C) in {stage} {when}, and ended "
        "before it had saved",
        "{again} If this repeats, give the job more time to save (world.grace_s) or save more often "
        "(train.checkpoint.every_steps)",
    ),
    # a rank stood still
    Rule(
        "silent rank",
        silent(_ANY, r".*; all ranks waited for each other.*"),
        "all ranks hung: silent for {seconds} s{phase} {when}{where}",
        "look at the network between the ranks; raise world.timeout_s if that phase may take so long. {again}",
    ),
    Rule(
        "silent rank",
        silent(_ANY, r".*no stack.*"),
        "{who} hung: silent for {seconds} s{phase} {when}{where}",
        "that process was frozen, not slow: look at its machine (a suspended process, a stuck driver or disk). {again}",
    ),
    Rule(
        "silent rank",
        silent(" in data", r".*"),
        "{who} hung: silent for {seconds} s{phase} {when}{where}",
        "look at the disk or store from which that machine reads the shards. {again}",
    ),
    Rule(
        "silent rank",
        silent(" in save", r".*"),
        "{who} hung: silent for {seconds} s{phase} {when}{where}",
        "look at the disk that holds the run folder: a network file system may have stopped answering. {again}",
    ),
    Rule(
        "silent rank",
        silent(" (?:in|at its) start", r".*"),
        "{who} hung: silent for {seconds} s{phase}{where}",
        "see that all ranks of all machines start and reach each other; raise world.timeout_s if a start takes longer. "
        "{again}",
    ),
    Rule(
        "silent rank",
        silent(_ANY, r".*"),
        "{who} hung: silent for {seconds} s{phase} {when}{where}",
        "look at the code that the stack names; raise world.timeout_s if it may take that long. {again}",
    ),
    # a rank was lost
    Rule(
        "GPU fault",
        r"(?P<what>uncorrectable ECC error|GPU is lost|fallen off the bus|CUDA error: unspecified launch failure"
        r"|CUDA driver error|Xid \S+|misaligned address|illegal memory access)",
        "the GPU of {who} failed in {stage} {when}: {what}",
        "look at that machine's GPU (`nvidia-smi -q`, the kernel's log) and leave it out. {again}",
        sure="likely",
    ),
    Rule(
        "crash",
        r"killed by (?P<signal>SIG(?:SEGV|ABRT|ILL|FPE|BUS|TRAP|SYS))"
        r"|(?P<fatal>Fatal Python error: .*|terminate called .*)",
        "{who} crashed in native code in {stage} {when}: {signal}{fatal}",
        "see the lines before it in the log and the rank's stack; a driver, or a library that was built for another "
        "machine, is most likely. {again}",
    ),
    Rule(
        "killed",
        r"(?:was )?killed by SIGKILL|\bexit(?:code| code)?\s*:? (?:-9|137)\b",
        "{who} was killed by SIGKILL in {stage} {when}, and nothing here says by whom",
        "look at the kernel's log (dmesg) or the pod's events: the out-of-memory killer is the usual one; then take "
        "less memory (world.micro_batch_samples=auto, world.recompute=true). {again}",
        sure="likely",
    ),
    Rule(
        "port in use",
        r"EADDRINUSE|[Aa]ddress already in use",
        "a port that the ranks wanted to meet at is taken",
        "end what is left of an earlier start on that machine. {again}",
    ),
    # code
    Rule(
        "unreachable peer",
        r"\bgai error\b|Name or service not known|Temporary failure in name resolution|No address associated with",
        "the ranks could not find each other: a host's name has no address ({clause})",
        "see the names in the job's MASTER_ADDR and the cluster's DNS. {again}",
        consequence=True,
    ),
    Rule(
        "unreachable peer",
        r"client socket has (?:timed out|failed)|waiting for clients|Rendezvous\w*Error|DistNetworkError|DistStoreError"
        r"|Connection refused|No route to host|Network is unreachable",
        "the ranks could not reach each other to begin: {clause}",
        "see that all ranks are started, and that each machine can reach MASTER_ADDR and MASTER_PORT. {again}",
        sure="likely",
        consequence=True,
    ),
    Rule(
        "lost peer",
        r"lost its connection to another rank|Connection (?:reset|closed|was likely closed)|Broken pipe"
        r"|Timed out waiting \d+ms for (?:recv|send)"
        r"|collective operation timeout|NCCL communicator was aborted|ncclRemoteError|ncclSystemError|ncclInternalError"
        r"|NCCL error|Socket Timeout|remote process exited|Process group watchdog",
        "the connection between ranks was lost in {stage} {when}: {clause}",
        "look at the log of the machine whose rank went away, then at the network between them. {again}",
        sure="likely",
        consequence=True,
    ),
    Rule(
        "code error",
        r"(?P<kind>\b[A-Z]\w*(?:Error|Exception|Exit|Interrupt))(?P<place>(?: at [^\s:]+:\d+)?)"
        r"(?:: (?P<message>[^;]*)|$)",
        "{who} raised {kind}{place} in {stage} {when}: {message}",
        "mend the code or the value that it names; the whole traceback is in the log. {again}",
        vague=True,
    ),
    Rule(
        "disk full",
        r"ended without a word; the disk has (?P<left>[^;]*) left",
        "it ended without a word in {stage} {when}, and its disk has only {left} left",
        "make room there or move the run to a larger disk. {again}",
        sure="a guess",
    ),
    Rule(
        "killed from outside",
        r"ended without a word",
        "it ended without a word in {stage} {when}: all its processes were killed at once, or the machine went away",
        "look at what ended the machine or the pod (its events, the kernel's log). {again}",
        sure="a guess",
    ),
    Rule(
        "failed",
        r"^exit (?P<code>\d+): (?P<reason>.+)",
        "{stage} failed: {reason}",
        "do what that line says. {again}",
        sure="likely",
        vague=True,
    ),
)
