"""Run folders as failures leave them, written by hand, and what `trainworks diagnose` says of one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from configs.folder import RunFolder, digest
from configs.lines import FAILURE
from pipelines.diagnose import main

BEGUN = 1_750_000_000.0
"""Seconds since 1970 when a hand-made training starts; its events follow second by second"""

# what is printed, by the installed versions and by those with CUDA
GLOO_RESET = (
    "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:38106: Connection "
    "reset by peer. This is typically caused by a remote worker hanging or bugs in the application. Check the logs of "
    "the remote worker before reporting an error."
)
CUDA_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.72 GiB of which 1.31 GiB is "
    "free. Process 7 has 138.40 GiB memory in use."
)
NO_ADDRESS = (
    "[E1122 15:01:29.177338648 socket.cpp:764] [c10d] The IPv6 network addresses of (run-master-0, 37363) cannot be "
    "retrieved (gai error: -2 - Name or service not known)."
)
TORCHRUN = """\
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
  File "/venv/lib/python3.11/site-packages/torch/distributed/elastic/multiprocessing/errors/__init__.py", line 367, in f
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 32572) """
SHARD = "shard /runs/x/data/train-00000.tar: sample 0 (at byte 0) is not what was written: its checksum differs"
CODE = "; the whole traceback is in /runs/x/logs/train.log"
TRACEBACK = (
    "Traceback (most recent call last):",
    '  File "/app/trainer/loop.py", line 44, in fit',
    '  File "/app/trainer/models/unet.py", line 88, in forward',
    '  File "/venv/lib/python3.11/site-packages/torch/nn/functional.py", line 12, in linear',
    "KeyError: 'x'",
)

# stacks of a rank that waits, of one that works, and of one that cannot answer
WAITS = """\
Thread 0x00007f4f765666c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007f4f76fc4b80 (most recent call first):
  File "/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 3981 in all_gather
  File "/app/trainer/distributed.py", line 61 in gather
  File "/app/trainer/loop.py", line 130 in exchange
"""
SLEEPS = """\
Thread 0x00007f4f765666c0 (most recent call first):
  File "/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 3981 in all_gather

Current thread 0x00007f4f76fc4b80 (most recent call first):
  File "/venv/lib/python3.11/site-packages/torch/nn/functional.py", line 12 in linear
  File "/app/trainer/models/unet.py", line 88 in forward
  File "/app/trainer/loop.py", line 150 in _train_turn
"""
FROZEN = "no stacks: the process was stopped by a signal\n"


class Left:
    """A run folder in the making: 40 steps on 2 ranks."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.folder.logs.mkdir(parents=True)
        self.folder.config.write_text("name: left\ntrain:\n  steps: 40\n")

    def log(self, stage: str, *lines: str) -> None:
        """Add lines to a log."""
        with self.folder.log(stage).open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def began(self, step: int = 0) -> None:
        """The line that a training prints when it starts."""
        begin = f"continuing after step {step}" if step else "from the start"
        self.log("train", f"train | 23,008 parameters on 2 x cpu, 40 steps, {begin}")

    def events(self, *events: Mapping[str, Any], stage: str = "train", begun: float = BEGUN) -> None:
        """Add events to a log, one a second."""
        path = getattr(self.folder, stage) / "events.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            for second, event in enumerate(events):
                file.write(json.dumps({"event": event["event"], "time": begun + second, **event}) + "\n")

    def trained(self, *, to: int, **last: Any) -> None:
        """The events of a training up to a step."""
        steps = [{"event": "step", "step": step, "train/loss": 2.5} for step in range(1, to + 1)]
        self.events({"event": "start", "world": 2}, *steps, *([{"event": "finish", **last}] if last else []))

    def checkpoint(self, step: int) -> Path:
        """A whole checkpoint, as far as its record goes."""
        folder = self.folder.train / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "model.weights.rank-00000.safetensors").write_bytes(b"tensors")
        record = {"step": step, "files": {"model.weights.rank-00000.safetensors": "00" * 32}}
        (folder / "complete.json").write_text(json.dumps(record | {"digest": digest(record)}))
        return folder

    def incident(self, reason: str, *, stacks: Sequence[str] = (), stage: str = "train", **fields: Any) -> Path:
        """A record of the node agent, and its last word in the log where it does not start again."""
        root = (self.folder.train if stage == "train" else self.folder.evaluation) / "incidents"
        path = root / f"{len(list(root.glob('*'))) + 1:04d}"
        path.mkdir(parents=True)
        for rank, stack in enumerate(stacks):
            (path / f"rank-{rank:05d}.txt").write_text(stack)
        ranks = [
            {"rank": rank, "exit_code": None, "phase": phase, "step": 7, "beats": beats, "silent_s": 12.4}
            for rank, (phase, beats) in enumerate(fields.pop("phases", [("exchange", 30), ("compute", 29)]))
        ]
        record = {"time": BEGUN + 100, "stage": stage, "reason": reason, "restarted": False, "ranks": ranks} | fields
        (path / "incident.json").write_text(json.dumps(record))
        if not record["restarted"]:
            self.failed(stage, record.get("exit_code", 1), reason)
        return path

    def silent(self, reason: str = "rank 1 was silent for 12 s in compute of step 7", **fields: Any) -> None:
        """A training that stood still at step 7."""
        self.began()
        self.trained(to=6)
        self.incident(reason, kind="silent", **{"rank": 1, "exit_code": 137, "signal": None} | fields)

    def dead(self, hint: str = "was memory short?", **fields: Any) -> None:
        """A training that lost a rank at step 7."""
        reason = f"rank 1 was killed by SIGKILL in compute of step 7; {hint}"
        self.incident(reason, **{"kind": "dead", "rank": 1, "exit_code": 137, "signal": "SIGKILL"} | fields)

    def failed(self, stage: str, code: int, reason: str) -> None:
        """A stage's own word on its end."""
        self.log(stage, f"{stage} {FAILURE} {json.dumps({'code': code, 'reason': reason})}")


def diagnose(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """The command's exit code and its record of a run."""
    code = main([str(run), "--json"])
    return code, json.loads(capsys.readouterr().out)
