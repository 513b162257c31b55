"""The case of recovery: from the `kill -9` of one rank to the first step after it, agents against each other."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import BenchmarkError, Case, Pair, Round, Stopwatch
from benchmarks.loop import HERE, LINES, prepare, sentences
from benchmarks.worker import environment
from configs.events import read_events
from configs.folder import RunFolder
from configs.load import load
from configs.process import die_with_parent

STEPS, EVERY, KILL_AFTER = 1_000_000, 20, 30
"""Of a training that outlasts its killing; steps between checkpoints; the step after which a rank is killed"""
FRESH_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"
"""For torchrun, whose ranks may else look for their peers where those of the start before were, and fail or hang"""
PATIENCE_S, LIMIT_S = 300.0, 60.0
"""Until a job that does nothing is given up; seconds that a recovery may take"""


@dataclass(frozen=True)
class Job:
    """A training on two ranks under an agent that starts them again."""

    command: Sequence[str]
    events: Path
    """Its log, JSON lines: `start` with the step that it goes on from, `step`"""
    output: Path
    """What it prints"""

    @contextlib.contextmanager
    def started(self) -> Iterator["subprocess.Popen[bytes]"]:
        """The running agent; it and all its ranks end with the block."""
        with self.output.open("wb") as output:
            agent = subprocess.Popen(
                self.command,
                stdout=output,
                stderr=output,
                env=environment(1),
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        try:
            yield agent
        finally:
            ranks = descendants(agent.pid)
            for process in (agent, *ranks):
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    process.kill()
            agent.wait()
            psutil.wait_procs(ranks, timeout=PATIENCE_S)

    def seen(self) -> list[dict[str, Any]]:
        """The log's starts and steps so far."""
        events = read_events(self.events) if self.events.exists() else ()
        return [event for event in events if event["event"] in ("start", "step")]

    def wait(self, agent: "subprocess.Popen[bytes]", fact: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Until the log shows a fact. Raises BenchmarkError with the last words when the job ends or takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while not fact(self.seen()):
            if agent.poll() is not None or time.monotonic() > deadline:
                words = self.output.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise BenchmarkError(f"{' '.join(self.command)} ended, or made no step in {PATIENCE_S:g} s:\n{words}")
            time.sleep(0.01)


def descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def rank_process(pid: int, rank: int) -> psutil.Process:
    """The rank below an agent, by its name, or by its environment where the agent gives no names."""
    for process in descendants(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            named = Path(f"/proc/{process.pid}/comm").read_text().strip()
            if named == f"rank-{rank}" or process.environ().get("RANK") == str(rank):
                return process
    raise BenchmarkError(f"the agent {pid} has no rank {rank}")


def recover(job: Job) -> Round:
    """One round: train for some steps, kill a rank, and time the way to the first step of the next start."""
    watch = Stopwatch()
    with job.started() as agent:
        job.wait(agent, lambda events: any(event["step"] >= KILL_AFTER for event in events))
        victim = rank_process(agent.pid, 1)
        starts = sum(event["event"] == "start" for event in job.seen())
        watch.start()
        victim.send_signal(signal.SIGKILL)
        job.wait(agent, partial(goes_on, starts=starts))
        watch.stop()
        events = job.seen()
    return Round(1.0, watch.seconds, watch.cpu_s, resumption(events) | {"seconds": watch.seconds})


def goes_on(events: Sequence[dict[str, Any]], *, starts: int) -> bool:
    """Whether there has been a step after more than so many starts."""
    begun = [number for number, event in enumerate(events) if event["event"] == "start"]
    return len(begun) > starts and any(event["event"] == "step" for event in events[begun[starts] :])


def resumption(events: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Where the first start got to, where the last one went on from, and its first step."""
    begun = [number for number, event in enumerate(events) if event["event"] == "start"]
    before = [event["step"] for event in events[: begun[-1]] if event["event"] == "step"]
    after = [event["step"] for event in events[begun[-1] :] if event["event"] == "step"]
    return {"reached": max(before), "resumed": events[begun[-1]]["step"], "first": after[0]}


def recoveries_differ(ours: Any, peer: Any) -> str | None:
    """Both went on from a checkpoint behind what they had reached, with the step after it; ours within the limit."""
    for side, found in (("ours", ours), ("the peer", peer)):
        if not EVERY <= found["resumed"] <= found["reached"] or found["first"] != found["resumed"] + 1:
            return f"{side} had reached step {found['reached']} and went on with {found['first']}"
    if ours["seconds"] > LIMIT_S:
        return f"ours took {ours['seconds']:.1f} s, at most {LIMIT_S:g} are allowed"
    return None


def seconds(ours: Any, peer: Any) -> str:
    """How long both took, in words."""
    return f"from the kill to the next step: ours {ours['seconds']:.2f} s, peer {peer['seconds']:.2f} s"


def make_run(root: Path, *settings: str) -> RunFolder:
    """A prepared run of the loop benchmarks' network on two ranks, with settings as on the command line."""
    corpus = root / "corpus.txt"
    corpus.write_text("\n".join(sentences(LINES)), encoding="utf-8")
    configs = [str(HERE / name) for name in ("loop.yaml", "engine.yaml")]
    lasting = [f"train.steps={STEPS}", f"train.validate_every_steps={STEPS}", f"data.source.paths=['{corpus}']"]
    run = load([*configs, *lasting, *settings])
    folder = RunFolder(root / "run")
    folder.open(run)
    prepare(folder)
    return folder


def our_job(folder: RunFolder) -> Job:
    command = [sys.executable, "-m", "trainer.node", "trainer", str(folder.path)]
    return Job(command, folder.events, folder.logs / "agent.log")


@contextlib.contextmanager
def sides() -> Iterator[Pair]:
    """Each round is a training from its start."""
    with tempfile.TemporaryDirectory(prefix="trainworks-benchmark-") as name:
        folder = make_run(Path(name), "train.log_every_steps=1", f"train.checkpoint={{every_steps: {EVERY}, keep: 2}}")
        theirs = Path(name) / "plain"
        agent = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3"]
        script = [str(HERE / "plain_ranks.py"), str(theirs), str(STEPS), str(EVERY)]
        peer = Job(
            ["env", FRESH_STORE, sys.executable, "-m", *agent, *script],
            theirs / "events.jsonl",
            Path(name) / "plain.log",
        )

        def afresh(job: Job, state: Path) -> Round:
            shutil.rmtree(state, ignore_errors=True)
            os.mkdir(state)
            return recover(job)

        yield Pair(partial(afresh, our_job(folder), folder.train), partial(afresh, peer, theirs))


CASES = (
    Case(
        name="engine/recovery",
        measures="from kill -9 of a rank to the first new step, against torch.distributed.run and a plain script",
        unit="recoveries/s",
        goal=1.0,
        libraries=("torch", "deepspeed", "psutil"),
        open=sides,
        check=recoveries_differ,
        note=seconds,
    ),
)
