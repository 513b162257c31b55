"""A side in a process of its own, so that neither library meets the other: JSON lines over a pipe.

The parent writes `round`, the child answers with the round; all else that the child prints goes to its log.
"""

import contextlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
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
def worker(side: str, folder: Path, log: Path, *, threads: int) -> Iterator[Callable[[], Round]]:
    """Start `module:Class` on a folder and yield its rounds; the process ends with the block.

    Raises BenchmarkError with the end of the log when the process fails.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _ALONE}
    environment |= {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "RAYON_NUM_THREADS": str(threads),
        "ARROW_IO_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", "benchmarks.worker", side, str(folder)]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
        ) as process,
    ):
        try:
            _answer(process, side, log)  # set up
            yield lambda: _ask(process, side, log)
        finally:
            process.kill()


def _ask(process: "subprocess.Popen[str]", side: str, log: Path) -> Round:
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):  # the answer tells more
        process.stdin.write("round\n")
        process.stdin.flush()
    return Round(**json.loads(_answer(process, side, log)))


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
