"""A side in a process of its own, so that neither library meets the other: JSON lines over a pipe.

The parent writes `round`, the child answers with the round; all else that the child prints goes to its log.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Protocol

from benchmarks.harness import BenchmarkError, Round
from configs.process import die_with_parent

_ALONE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")


class Side(Protocol):
    """What a worker makes once from a folder, and then runs."""

    def round(self) -> Round: ...


@contextlib.contextmanager
def worker(side: str, folder: Path, log: Path, *, threads: int, ranks: int = 1) -> Iterator[Callable[[], Round]]:
    """Start `module:Class` on a folder, on each of several ranks, and yield its rounds; the block's end ends them.

    Raises BenchmarkError with the end of the log when a process fails.
    """
    logs = [log, *(log.with_name(f"{log.stem}-{rank}{log.suffix}") for rank in range(1, ranks))]
    port = str(free_port())
    processes: list[subprocess.Popen[str]] = []
    try:
        for rank, path in enumerate(logs):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_PORT": port}
            processes.append(_start(side, folder, path, environment(threads) | (place if ranks > 1 else {})))
        started = list(zip(processes, logs, strict=True))
        for process, path in started:
            _answer(process, side, path)  # set up
        yield lambda: _ask(started, side)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()


def environment(threads: int) -> dict[str, str]:
    """This process's, without a job that it may be a rank of, and with so many threads for every library."""
    inherited = {name: value for name, value in os.environ.items() if name not in _ALONE}
    return inherited | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "RAYON_NUM_THREADS": str(threads),
        "ARROW_IO_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MASTER_ADDR": "127.0.0.1",
        "PYTHONUNBUFFERED": "1",
    }


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(side: str, folder: Path, log: Path, variables: Mapping[str, str]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.worker", side, str(folder)]
    with log.open("wb") as errors:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=dict(variables), text=True
        )


def _ask(started: "Sequence[tuple[subprocess.Popen[str], Path]]", side: str) -> Round:
    """Let every rank do a round; the answer is rank 0's, with the processor time of all."""
    for process, _ in started:
        assert process.stdin
        with contextlib.suppress(BrokenPipeError):  # the answer tells more
            process.stdin.write("round\n")
            process.stdin.flush()
    rounds = [Round(**json.loads(_answer(process, side, log))) for process, log in started]
    return replace(rounds[0], cpu_s=sum(each.cpu_s for each in rounds))


def _answer(process: "subprocess.Popen[str]", side: str, log: Path) -> str:
    assert process.stdout
    if line := process.stdout.readline():
        return line
    code = process.wait()
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    raise BenchmarkError(f"{side} ended with exit code {code}:\n{tail}")


def serve(side: str, folder: Path) -> None:
    """The child: set up, say so, then one round for each line."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print must not be taken for an answer
        module, name = side.split(":")
        made: Side = getattr(import_module(module), name)(folder)
        print("ready", file=answers, flush=True)
        for _ in sys.stdin:
            print(json.dumps(asdict(made.round())), file=answers, flush=True)


if __name__ == "__main__":
    die_with_parent()
    try:
        serve(sys.argv[1], Path(sys.argv[2]))
    except Exception:
        traceback.print_exc()
        sys.exit(1)
