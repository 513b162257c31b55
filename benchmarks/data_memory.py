"""Memory of a whole `trainworks prepare`, all its processes together. Alone: `python -m benchmarks.data_memory GIB`."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.corpus import write_corpus
from benchmarks.harness import BenchmarkError, Limit, Say, measure_limit
from configs.folder import RunFolder
from configs.load import load

GIB = 1 << 30
CORPUS_GIB = 5.0
_DISK = 4  # times the corpus: itself, what is spilled, the ids and the shards
_EVERY_S = 0.2


def peak_gib(corpus_gib: float, say: Say) -> float:
    """The most memory at any moment, as proportional set size, summed over the command and its workers.

    Raises BenchmarkError when the disk is too small or the command fails.
    """
    with tempfile.TemporaryDirectory(prefix="trainworks-benchmark-") as name:
        free = shutil.disk_usage(name).free
        if free < _DISK * corpus_gib * GIB:
            raise BenchmarkError(
                f"{name} has {free / GIB:.0f} GiB free, a corpus of {corpus_gib:g} GiB needs {_DISK * corpus_gib:g}; "
                "set TMPDIR to a larger disk, or try: python -m benchmarks.data_memory 1"
            )
        corpus = Path(name) / "corpus.jsonl"
        write_corpus(corpus, int(corpus_gib * GIB))
        config = str(Path(__file__).with_name("data.yaml"))
        paths = f"data.source.paths={json.dumps([str(corpus)])}"
        folder = RunFolder(Path(name) / "run")
        folder.open(load([config, paths, "world.prepare_workers=2"]))
        return _watched([sys.executable, "-m", "data.prepare", str(folder.path)], Path(name) / "log", say)


def _watched(command: list[str], log: Path, say: Say) -> float:
    """Run a command; returns its peak and says what it was doing then, by its log."""
    begun, peaks = time.monotonic(), {}
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        while process.poll() is None:
            held = [held_bytes(pid) for pid in family(process.pid)]
            doing = _last_line(log)
            if sum(held) > sum(peaks.get(doing, [0])):
                peaks[doing] = held
            time.sleep(_EVERY_S)
    if process.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise BenchmarkError(f"prepare ended with exit code {process.returncode}:\n{tail}")
    say(f"  prepared in {time.monotonic() - begun:.0f} s; the most after each line of its log, MiB a process:")
    for doing, held in peaks.items():
        say(f"    {sum(held) >> 20:5} = {' + '.join(str(each >> 20) for each in held)}  {doing}")
    return max(map(sum, peaks.values())) / GIB


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "before the first line"


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for each in found:
        try:
            tasks = list(Path(f"/proc/{each}/task").iterdir())
            found += [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def held_bytes(pid: int) -> int:
    """Memory of a process; pages that several share count once over all of them; pages of mapped files count too."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:")), 0)


def limit(corpus_gib: float = CORPUS_GIB) -> Limit:
    """The case for a corpus of a size."""
    return Limit(
        name="data/memory",
        measures=f"peak memory of prepare with 2 workers on a corpus of {corpus_gib:g} GiB",
        unit="GiB",
        most=1,
        libraries=("pyarrow", "duckdb", "gigatoken"),
        measure=lambda say: peak_gib(corpus_gib, say),
    )


if __name__ == "__main__":
    result = measure_limit(
        limit(float(sys.argv[1]) if sys.argv[1:] else CORPUS_GIB), lambda line: print(line, flush=True)
    )
    sys.exit(0 if result.passed else 1)
