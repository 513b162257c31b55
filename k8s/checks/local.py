"""Whether this machine is fit to run trainworks."""

import glob
import os
import platform
import re
import shutil
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from configs.code import HOME, LOCK, plain_name
from configs.schema import RunConfig
from k8s.checks.finding import Finding, failed, ok

PYTHON, PACKAGES, DISK, MEMORY, SHARED, CORES, GPUS = (
    *("Python", "packages", "disk", "memory", "/dev/shm", "cores", "GPUs"),  # noqa: S108
)
WANTED_PYTHON = "3.11"
LEAST_DISK, LEAST_MEMORY, LEAST_SHARED = 2**30, 2**29, 2**28
"""Bytes: free for run folders; free for each rank; free in shared memory for ranks and readers that meet there"""
SHOWN = 4
GIB = 2**30


def local(run: RunConfig | None, runs: Path) -> Iterator[Finding]:
    """Each check of this machine, for a run where one is given."""
    yield python()
    yield packages(HOME)
    yield disk(runs)
    yield memory(run)
    yield shared_memory(run)
    if run is not None and run.cluster.nodes == 1:
        yield cores(run)
    if run is not None and run.world.device == "cuda":
        yield gpus(run)


def python() -> Finding:
    version = platform.python_version()
    if version.startswith(f"{WANTED_PYTHON}."):
        return ok(PYTHON, version)
    return failed(PYTHON, f"{version}, not {WANTED_PYTHON}", f"make the virtual environment with python{WANTED_PYTHON}")


def packages(home: Path) -> Finding:
    """What is installed against what the project pins."""
    needed, pins = requirements(home)
    installed = {plain_name(each.name): each.version.partition("+")[0] for each in metadata.distributions()}
    wrong = [f"{name} is missing" for name in sorted(needed - set(installed))]
    wrong += [
        f"{name} is {installed[name]}, not {version}"
        for name, version in sorted(pins.items())
        if name in installed and installed[name] != version
    ]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        return failed(PACKAGES, f"{', '.join(wrong[:SHOWN])}{more}", f"pip install -r {LOCK}, or make setup")
    return ok(PACKAGES, f"{len(needed)} are there, {len(pins)} of the pinned versions" if pins else "all are there")


def requirements(home: Path) -> tuple[set[str], dict[str, str]]:
    """Packages that the program needs, and versions that are pinned: of a working copy, else of what is installed."""
    if (home / "pyproject.toml").is_file():
        lines = tomllib.loads((home / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        try:
            lines = [line for line in metadata.requires("trainworks") or () if "extra ==" not in line]
        except metadata.PackageNotFoundError:
            lines = []
    lock = home / LOCK
    pinned = lock.read_text(encoding="utf-8").splitlines() if lock.is_file() else lines
    pins = [re.match(r"([A-Za-z0-9._-]+)==([^\s;,]+)", line) for line in pinned]
    return {plain_name(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in lines}, {
        plain_name(m[1]): m[2] for m in pins if m
    }


def disk(runs: Path) -> Finding:
    """Room for run folders."""
    place = next(each for each in (runs.absolute(), *runs.absolute().parents) if each.exists())
    free = shutil.disk_usage(place).free
    says = f"{free / GIB:.3g} GiB free at {place}"
    return ok(DISK, says) if free >= LEAST_DISK else failed(DISK, says, "make room, or put runs elsewhere: --runs DIR")


def memory(run: RunConfig | None) -> Finding:
    """Memory that programs may still take, against a least for each rank."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    free = int(found[1]) * 1024 if found else 0
    ranks = run.world.processes if run is not None and run.cluster.nodes == 1 else 1
    says = f"{free / GIB:.3g} GiB free"
    if free < ranks * LEAST_MEMORY:
        return failed(MEMORY, f"{says}, for {ranks} ranks", "end other programs, or lower world.processes")
    return ok(MEMORY, says)


def shared_memory(run: RunConfig | None) -> Finding:
    """Where ranks of one machine meet, and loaders hand over what they read; containers often have 64 MB."""
    if not os.path.isdir("/dev/shm"):  # noqa: S108
        return failed(SHARED, "there is none", "start the container with --shm-size=1g")
    free = shutil.disk_usage("/dev/shm").free  # noqa: S108
    says = f"{free / GIB:.3g} GiB free"
    uses = run is not None and (run.world.processes > 1 or run.world.loader_workers > 0)
    if uses and free < LEAST_SHARED:
        return failed(SHARED, f"{says}, which ends in bus errors", "start the container with --shm-size=1g")
    return ok(SHARED, says)


def cores(run: RunConfig) -> Finding:
    """Cores that this process may use, against the threads of all ranks; too few are slow, and not wrong."""
    there, world = len(os.sched_getaffinity(0)), run.world
    says = f"{there}; the ranks have {world.processes} x {world.threads} threads"
    remedy = "they will wait for each other: lower world.processes or world.threads"
    return ok(CORES, says, remedy if world.processes * world.threads > there else "")


def gpus(run: RunConfig) -> Finding:
    """Devices of this machine, against a run that insists on them."""
    there, wanted = len(glob.glob("/dev/nvidia[0-9]*")), run.world.processes // run.cluster.nodes
    says = f"{there} here, and each node has {wanted} ranks"
    if there < wanted:
        return failed(GPUS, says, "lower world.processes, or use world.device=auto")
    return ok(GPUS, says)
