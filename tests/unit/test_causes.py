"""What stages, the node agent and stacks say of an end, and the cause that it is taken for."""

import json
from pathlib import Path

import pytest

from tests.left import BEGUN, CODE, CUDA_MEMORY, FROZEN, GLOO_RESET, SHARD, SLEEPS, TRACEBACK, WAITS, Left, diagnose

GLOO_TIMEOUT = (
    "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv "
    "operation to complete"
)
STORE_TIMEOUT = "The client socket has timed out after 3000ms while trying to connect to (10.0.0.7, 37363)."
STORE_CLIENTS = "Timed out after 4 seconds waiting for clients. 1/2 clients joined."
CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4000000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
NUMPY_MEMORY = "Unable to allocate 7.11 PiB for an array with shape (1000000000000000,) and data type float64"
OUTAGE = (
    "s3://corpus/train-00001.tar: HTTP 503, for 300 s at http://10.0.0.9:8080; see whether the store is up and can be "
    "reached from here, then run the same command again"
)

FAILURES: list[tuple[str, int, str, str, str]] = [
    # stage, exit code, its reason, the cause, a word of the sentence
    ("train", 1, f"rank 1: out of memory at unet.py:88: {CUDA_MEMORY}; try less", "out of GPU memory", "rank 1"),
    ("train", 1, f"OutOfMemoryError at unet.py:88: {CUDA_MEMORY}{CODE}", "out of GPU memory", "the device has"),
    ("train", 1, f"RuntimeError at linear.py:134: {CPU_MEMORY}{CODE}", "out of memory", "the machine has"),
    ("train", 1, f"rank 0: out of memory at order.py:30: {NUMPY_MEMORY}", "out of memory", "rank 0"),
    ("train", 1, f"MemoryError at order.py:30: {CODE}", "out of memory", "the machine has"),
    ("train", 1, f"{SHARD}; restore the file", "damaged shard", "/runs/x/data/train-00000.tar is not"),
    ("train", 1, "a sample's .npy field has no header: x", "damaged data", "no header"),
    ("train", 1, "/runs/x/data/tokenizer.json is not the tokenizer that made the shards", "damaged data", "tokenizer"),
    ("train", 1, OUTAGE, "outage", "s3://corpus/train-00001.tar: HTTP 503, for 300 s"),
    ("train", 1, f"RuntimeError at distributed_c10d.py:3002: {GLOO_RESET}{CODE}", "lost peer", "was lost"),
    ("train", 1, f"RuntimeError at distributed_c10d.py:3002: {GLOO_TIMEOUT}{CODE}", "lost peer", "was lost"),
    ("train", 1, f"DistNetworkError at rendezvous.py:189: {STORE_TIMEOUT}{CODE}", "unreachable peer", "10.0.0.7"),
    ("train", 1, f"DistStoreError at rendezvous.py:189: {STORE_CLIENTS}{CODE}", "unreachable peer", "1/2 clients"),
    ("train", 1, "/runs/x/train/step-00000008.part/model.tar: no space left; what", "disk full", "/runs/x/train"),
    ("train", 1, "OSError at trainer/x.py:3: [Errno 28] No space left on device: '/r/a'", "disk full", "(/r/a)"),
    ("train", 1, "/runs/x/train: Read-only file system; what was finished", "disk read-only", "/runs/x/train"),
    ("train", 1, "/runs/x/a: the disk gives back other bytes than were written", "disk broken", "other bytes"),
    ("train", 1, "FloatingPointError at loop.py:80: train/loss is nan at step 12; the", "loss not finite", "is nan"),
    ("train", 1, "step 16 is not saved: weights fc of model holds a NaN or an infinity; x", "loss not finite", "fc of"),
    ("train", 1, "train/loss is 31.2 at step 9, above 4.2: the median of the last 8", "loss spike", "31.2 at step 9"),
    ("train", 1, "step 16 is not saved: every weight is the same as at step 8, though", "stale checkpoint", "step 8"),
    ("train", 1, "/x/step-00000008/complete.json: its digest is not that of", "damaged checkpoint", "step-00000008"),
    ("train", 1, "the weights are of another network: fc differ (1 in all)", "damaged checkpoint", "fc differ"),
    (
        "train",
        1,
        "RuntimeError at x.py:3: unable to open shared memory object </torch_1>",
        "shared memory short",
        "shm",
    ),
    (
        "train",
        1,
        "RuntimeError at d.py:9: DataLoader worker (pid 7) is killed by signal: Killed.",
        "loader killed",
        "ahe",
    ),
    ("train", 1, "AcceleratorError at x.py:3: CUDA error: an illegal memory access was", "GPU fault", "illegal memory"),
    ("train", 1, f"KeyError at trainer/loop.py:44: 'x'{CODE}", "code error", "raised KeyError at trainer/loop.py:44"),
    ("train", 1, "rank 1 ended with exit code 5 and gave no reason", "failed", "exit code 5"),
    ("train", 2, "/x/step-00000008 belongs to another configuration; these", "checkpoint of another run", "another"),
    ("train", 2, "/x/train is in use by process 31; wait for it or stop it", "in use", "process 31"),
    ("train", 143, "stopped after step 8 of 40, which is saved; the same", "preempted", "saved step 8 of 40"),
    ("train", 143, "stopped by SIGTERM; rank 1 did not end in time and had to be killed", "preempted", "before it had"),
    ("prepare", 2, "there is no file /corpus/a.txt", "user error", "no file /corpus/a.txt"),
    ("prepare", 137, "killed by SIGKILL", "killed", "killed by SIGKILL in prepare"),
    ("evaluate", 2, "there is no test split to evaluate on; set data.splits.test above 0", "user error", "test split"),
    ("evaluate", 1, "/x/step-00000040 is missing: training is not finished; run", "failed", "training is not finished"),
]


@pytest.fixture
def left(tmp_path: Path) -> Left:
    return Left(tmp_path / "run")


@pytest.mark.parametrize(("stage", "code", "reason", "cause", "words"), FAILURES)
def test_what_a_stage_says_of_its_failure_is_a_cause(
    left: Left, capsys: pytest.CaptureFixture[str], stage: str, code: int, reason: str, cause: str, words: str
):
    left.log(stage, f"{stage} | at work")
    left.failed(stage, code, reason)
    got, record = diagnose(left.folder.path, capsys)
    assert (got, record["state"], record["cause"], record["stage"]) == (1, "failed", cause, stage)
    assert words.lower() in record["sentence"].lower()
    assert len(record["action"]) > 10
    assert "{" not in record["sentence"] + record["action"]
    assert record["evidence"][0]["place"] == f"logs/{stage}.log:2"


def test_a_silent_rank_is_told_from_the_one_that_waits_for_it(left: Left, capsys: pytest.CaptureFixture[str]):
    left.silent(stacks=(WAITS, SLEEPS))
    code, record = diagnose(left.folder.path, capsys)
    assert (code, record["cause"], record["rank"], record["step"], record["sure"]) == (
        1,
        "silent rank",
        1,
        7,
        "certain",
    )
    assert record["sentence"] == (
        "Rank 1 hung: silent for 12 s in compute at step 7 of 40; it stood in forward at models/unet.py:88 while "
        "rank 0 waited for it"
    )
    told = " | ".join(fact["text"] for fact in record["evidence"])
    assert "compute of step 7, 29 beats, silent for 12.4 s; in linear at nn/functional.py:12 < forward at" in told
    assert "waiting for the others in all_gather at distributed/distributed_c10d.py:3981 < gather at" in told


@pytest.mark.parametrize("stack", [SLEEPS, FROZEN])
def test_of_ranks_with_equal_beats_the_one_outside_of_a_collective_is_named(
    left: Left, capsys: pytest.CaptureFixture[str], stack: str
):
    reason = "ranks 0 and 1 were silent for 12 s in compute of step 7"
    left.silent(reason, rank=0, stacks=(WAITS, stack), phases=[("compute", 30)] * 2)
    assert diagnose(left.folder.path, capsys)[1]["rank"] == 1


def test_ranks_that_stand_at_the_same_place_are_all_named(left: Left, capsys: pytest.CaptureFixture[str]):
    reason = "ranks 0 and 1 were silent for 12 s in data of step 7"
    left.silent(reason, rank=0, stacks=(SLEEPS, SLEEPS), phases=[("data", 30)] * 2)
    _, record = diagnose(left.folder.path, capsys)
    assert (record["rank"], record["step"]) == (None, 7)
    assert "; all ranks stood still in forward at models/unet.py:88" in record["sentence"]
    assert "shards" in record["action"]


def test_ranks_that_all_wait_point_at_the_network(left: Left, capsys: pytest.CaptureFixture[str]):
    reason = "ranks 0 and 1 were silent for 12 s in exchange of step 7"
    left.silent(reason, rank=0, stacks=(WAITS, WAITS), phases=[("exchange", 30)] * 2)
    _, record = diagnose(left.folder.path, capsys)
    assert (record["cause"], record["rank"]) == ("silent rank", None)
    assert record["sentence"].startswith("All ranks hung")
    assert "network" in record["action"]


def test_a_frozen_rank_gives_no_stack(left: Left, capsys: pytest.CaptureFixture[str]):
    left.silent(stacks=(SLEEPS, FROZEN))
    _, record = diagnose(left.folder.path, capsys)
    assert "it gave no stack: the process was stopped by a signal" in record["sentence"]
    assert "frozen" in record["action"]


@pytest.mark.parametrize(
    ("place", "word"), [("in data of step 7", "shards"), ("in save of step 7", "run folder"), ("at its start", "reach")]
)
def test_what_to_do_about_a_silent_rank_depends_on_what_it_did(
    left: Left, capsys: pytest.CaptureFixture[str], place: str, word: str
):
    left.silent(f"rank 1 was silent for 12 s {place}", stacks=(WAITS, SLEEPS))
    _, record = diagnose(left.folder.path, capsys)
    assert (record["cause"], record["rank"]) == ("silent rank", 1)
    assert word in record["action"]


@pytest.mark.parametrize(
    ("hint", "log", "memory", "cause", "sure"),
    [
        ("was memory short?", "", (100e6, 101e6), "killed", "likely"),
        ("was memory short?", "", (100e6, 900e6), "out of memory", "likely"),
        ("was memory short?", "Memory cgroup out of memory: Killed process 7 (python)", (), "out of memory", "likely"),
        ("the kernel ran out of memory", "", (), "out of memory", "certain"),
    ],
)
def test_a_sigkill_is_one_for_memory_where_something_else_tells_of_it(
    left: Left,
    capsys: pytest.CaptureFixture[str],
    hint: str,
    log: str,
    memory: tuple[float, ...],
    cause: str,
    sure: str,
):
    left.began()
    left.log("train", log)
    steps = [{"event": "step", "step": step, "train/memory_bytes": held} for step, held in enumerate(memory)]
    left.events({"event": "start"}, *steps)
    left.dead(hint)
    _, record = diagnose(left.folder.path, capsys)
    assert (record["cause"], record["sure"], record["rank"]) == (cause, sure, 1)


def test_a_crash_in_native_code_is_named_by_its_signal(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    left.incident("rank 0 was killed by SIGSEGV in compute of step 7", kind="dead", rank=0, signal="SIGSEGV")
    _, record = diagnose(left.folder.path, capsys)
    assert (record["cause"], record["rank"]) == ("crash", 0)
    assert "SIGSEGV" in record["sentence"]


def test_an_incident_of_the_evaluation_is_read_too(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    left.trained(to=40, status="completed")
    left.log("evaluate", "evaluate ~ 3/7 windows")
    left.dead(stage="evaluate")
    _, record = diagnose(left.folder.path, capsys)
    assert (record["stage"], record["cause"]) == ("evaluate", "killed")


def test_under_an_operator_the_log_of_the_incident_is_enough(left: Left, capsys: pytest.CaptureFixture[str]):
    path = left.incident("rank 1: KeyError at loop.py:44: 'x'", kind="failed", rank=1, exit_code=1)
    left.folder.log("train").rename(path / "log.txt")
    (path / "log.txt").write_text("\n".join(TRACEBACK))
    _, record = diagnose(left.folder.path, capsys)
    assert (record["cause"], record["rank"]) == ("code error", 1)
    assert record["evidence"][0]["place"] == "train/incidents/0001/log.txt:5"


def test_of_incidents_on_several_nodes_the_cause_is_not_the_one_that_followed(
    left: Left, capsys: pytest.CaptureFixture[str]
):
    left.incident("rank 1 was killed by SIGSEGV in compute of step 7", kind="dead", rank=1, signal="SIGSEGV")
    other = left.incident("rank 2 lost its connection to another rank in compute of step 7", kind="dead", rank=2)
    record = json.loads((other / "incident.json").read_text())
    record["ranks"] = [each | {"rank": each["rank"] + 2} for each in record["ranks"]]
    (other / "incident.json").write_text(json.dumps(record | {"time": BEGUN + 101}))
    left.folder.log("train").unlink()  # each node has its own
    _, told = diagnose(left.folder.path, capsys)
    assert (told["cause"], told["rank"], told["failed_before"]) == ("crash", 1, 0)
    assert told["evidence"][1]["text"].startswith("follows from it: rank 2 lost its connection")


def test_an_incident_after_which_the_run_went_on_is_no_cause(left: Left, capsys: pytest.CaptureFixture[str]):
    left.began()
    left.dead(restarted=True)
    left.log("train", "train | rank 1 was killed by SIGKILL; starting again (1 of 3)")
    left.began(4)
    left.trained(to=40, status="completed")
    assert diagnose(left.folder.path, capsys)[0] == 0
