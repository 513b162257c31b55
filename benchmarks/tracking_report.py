"""The case of the report: a page over the log of a long training, in a process of its own."""

import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import BenchmarkError, Limit, Say
from benchmarks.loop import HERE
from configs.events import LOG, VERSION, encode
from configs.folder import RunFolder
from configs.load import dump, load

EVENTS = 1_000_000
FLUSH, VALIDATION, RESTARTS = 50, 1000, 10
"""Steps between two flushes and two validations; starts after deaths"""
METRICS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "entropy",
    "accuracy",
    "margin",
    "logits_max",
    "norm",
    "clipped",
    "scale",
)
MOST_S, MOST_BYTES = 10.0, 2**30


def events(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """So many events of a training: steps of ten metrics, spans, validations, deaths with steps done again."""
    rng, now, step = random.Random(seed), 1_800_000_000.0, 0
    yield {"event": LOG, "time": now, "version": VERSION}
    yield {"event": "start", "time": now, "step": 0, "world": 2, "device": "cpu", "since_launch_s": 5.0}
    told, next_death = 2, count // (RESTARTS + 1)
    while told < count:
        step, now = step + 1, round(now + 0.05, 3)
        figures = {f"train/{name}": 1 + rng.random() for name in METRICS}
        more: list[dict[str, Any]] = []
        if step % FLUSH == 0:
            figures |= {"train/samples_per_s": 600 + rng.random(), "train/memory_bytes": 2**30}
            spent = {"data": 0.2, "compute": 2.0, "save": 0.1}
            more = [{"event": "span", "time": now, "step": step, "kind": k, "seconds": s} for k, s in spent.items()]
        if step % VALIDATION == 0:
            more.append({"event": "validation", "time": now, "step": step, "validation/loss": 1 + rng.random()})
        if told > next_death:
            step, now, next_death = step - 30, now + 20, next_death + count // (RESTARTS + 1)
            more.append({"event": "start", "time": now, "step": step, "world": 2, "since_launch_s": 5.0})
        known = {"position": 32 * step, "samples_digest": "ab" * 32}
        told += 1
        yield {"event": "step", "time": now, "step": step, **figures, **known}
        for event in more[: count - told]:
            told += 1
            yield event


def make_run(path: Path, count: int = EVENTS) -> RunFolder:
    """The folder of a run with a log of so many events."""
    folder = RunFolder(path)
    folder.train.mkdir(parents=True)
    folder.config.write_text(dump(load([str(HERE / "loop.yaml")])), encoding="utf-8")
    with folder.events.open("wb") as file:
        file.writelines(map(encode, events(count)))
    return folder


def report(count: int, say: Say) -> tuple[float, int]:
    """Seconds and bytes of memory that a process took, from its launch to its end, to write a run's report."""
    with tempfile.TemporaryDirectory() as name:
        folder = make_run(Path(name) / "run", count)
        size = folder.events.stat().st_size
        command = [sys.executable, "-m", "benchmarks.tracking_report", str(folder.path)]
        begun = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent)
        seconds = time.perf_counter() - begun
        if done.returncode or not folder.report.exists():
            raise BenchmarkError(f"the report failed: {done.stderr[-2000:]}")
        peak, page = int(done.stdout), folder.report.stat().st_size
    told = f"{seconds:.2f} s, {peak / 2**20:.0f} MiB; the page has {page / 1e6:.2f} MB"
    say(f"  {count:,} events, {size / 1e6:.0f} MB: {told}")
    return seconds, peak


def seconds_of_a_report(say: Say) -> float:
    return report(EVENTS, say)[0]


def bytes_of_a_report(say: Say) -> float:
    return report(EVENTS, say)[1] / MOST_BYTES


CASES = (
    Limit(
        name="tracking/report",
        measures="report.html over a log of a million events, from the launch of the process to its end",
        unit="s",
        most=MOST_S,
        libraries=("bokeh", "orjson", "numpy"),
        measure=seconds_of_a_report,
    ),
    Limit(
        name="tracking/report-memory",
        measures="the most memory that its process holds",
        unit="GiB",
        most=1.0,
        libraries=("bokeh", "orjson", "numpy"),
        measure=bytes_of_a_report,
    ),
)

if __name__ == "__main__":
    from pipelines.report import write_report

    write_report(RunFolder(Path(sys.argv[1])))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
