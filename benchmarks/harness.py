"""Cases, and how one is measured: ours and the peer by turns, outputs compared first, the median ratio last."""

import importlib.metadata
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

Say = Callable[[str], None]
AnyCase = TypeVar("AnyCase", "Case", "Case | Limit")


class BenchmarkError(Exception):
    """A case could not be measured; the message says why and what to do."""


@dataclass(frozen=True)
class Round:
    """What one side did in one round, in what time; `outputs` is what the other side must have got too."""

    amount: float
    seconds: float
    """Wall time"""
    cpu_s: float
    """Processor time of the side's process and its children, which a busy machine disturbs less"""
    outputs: Any


@dataclass
class Stopwatch:
    """Wall and processor time from `start` to `stop`, that of processes that have ended meanwhile included."""

    seconds: float = 0.0
    cpu_s: float = 0.0

    def start(self) -> None:
        self._begun = time.perf_counter(), _processor_s()

    def stop(self) -> None:
        self.seconds, self.cpu_s = time.perf_counter() - self._begun[0], _processor_s() - self._begun[1]


def _processor_s() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


@dataclass(frozen=True)
class Pair:
    """Both sides, set up: each call is one round from the same start."""

    ours: Callable[[], Round]
    peer: Callable[[], Round]


@dataclass(frozen=True)
class Case:
    """A comparison: we are to reach `goal` times the peer's rate, with equal outputs."""

    name: str
    measures: str
    unit: str
    goal: float
    libraries: tuple[str, ...]
    """Distributions whose versions belong to the result"""
    open: Callable[[], AbstractContextManager[Pair]]
    """Sets both sides up, outside every timing, and takes them down"""
    check: Callable[[Any, Any], str | None]
    """What is wrong between the outputs of ours and the peer's; None when they are equal"""
    clock: Literal["seconds", "cpu_s"] = "seconds"
    """Which of a round's times a rate is over: wall time, or core-seconds"""
    note: Callable[[Any, Any], str] | None = None
    """What else the outputs of ours and the peer's say; nothing when not given"""

    def rate(self, done: Round) -> float:
        return done.amount / getattr(done, self.clock)


@dataclass(frozen=True)
class Limit:
    """A case without a peer: one measurement that is to be at most `most`."""

    name: str
    measures: str
    unit: str
    most: float
    libraries: tuple[str, ...]
    measure: Callable[[Say], float]

    @property
    def goal(self) -> float:
        """Of the ratio limit / measured"""
        return 1.0


@dataclass(frozen=True)
class Result:
    """One case's outcome; rates are medians over rounds, `ratio` the median of each round's ours / peer.

    Of a Limit, `ours` is what was measured, `peer` the limit, and `ratio` limit / measured.
    """

    case: str
    ours: float | None
    peer: float | None
    ratio: float | None
    goal: float
    outputs_equal: bool
    unit: str
    rounds: int
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.outputs_equal and self.ratio is not None and self.ratio >= self.goal

    def line(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)


def select(cases: Sequence[AnyCase], prefix: str) -> list[AnyCase]:
    """The cases whose names start with a prefix."""
    return [case for case in cases if case.name.startswith(prefix)]


def run(case: Case, rounds: int, say: Say) -> Result:
    """Measure a case, tell how it went, and end with its JSON line; a case that cannot run fails."""
    versions = versions_of(case.libraries)
    say(f"{case.name}: {case.measures}")
    say(f"  {', '.join(f'{name} {version}' for name, version in versions.items())}; {machine()}")
    try:
        if missing := [name for name, version in versions.items() if version == MISSING]:
            raise BenchmarkError(f"{case.name} needs {', '.join(missing)}; try: pip install {' '.join(missing)}")
        with case.open() as pair:
            ours, peer, problem = alternate(case, pair, rounds, say)
    except BenchmarkError as error:
        ours, peer, problem = [], [], str(error)
    if problem:
        say(f"  FAILED: {problem}")
    result = summarise(case, ours, peer, problem, versions)
    if result.ratio is not None:
        pairs = list(zip(ours, peer, strict=True))
        ratios = [case.rate(mine) / case.rate(other) for mine, other in pairs]
        kind, clock = ("wall", "seconds") if case.clock == "cpu_s" else ("processor", "cpu_s")
        beside = replace(case, clock=clock)
        other_ratio = statistics.median(beside.rate(mine) / beside.rate(other) for mine, other in pairs)
        verdict = "goal met" if result.passed else "FAILED: below the goal" if not problem else "not counted"
        assert result.ours is not None
        assert result.peer is not None
        say(f"  ours {figure(result.ours)} {case.unit}, peer {figure(result.peer)} (medians of {len(ours)})")
        say(f"  ratio {result.ratio:.3f} ({spread(ratios)}), goal {case.goal:g}: {verdict}")
        say(f"  the same ratio of {kind} time: {other_ratio:.3f}; were it far from the one above, the machine was busy")
    say(result.line())
    return result


def measure_limit(case: Limit, say: Say) -> Result:
    """Measure once, tell how it went, and end with the JSON line; what cannot be measured fails."""
    versions = versions_of(case.libraries)
    say(f"{case.name}: {case.measures}")
    say(f"  {', '.join(f'{name} {version}' for name, version in versions.items())}; {machine()}")
    value = None
    try:
        value = case.measure(say)
    except BenchmarkError as error:
        say(f"  FAILED: {error}")
    ratio = None if value is None else case.most / value
    measured = value is not None
    result = Result(case.name, value, case.most, ratio, 1.0, measured, case.unit, int(measured), versions)
    if value is not None:
        verdict = "goal met" if result.passed else "FAILED: above the goal"
        say(f"  {figure(value)} {case.unit}, at most {case.most:g}: {verdict}")
    say(result.line())
    return result


def alternate(case: Case, pair: Pair, rounds: int, say: Say) -> tuple[list[Round], list[Round], str | None]:
    """A warm-up of each whose outputs are compared, then rounds in the order ours, peer, peer, ours, ...

    The order cancels a drift of the machine's speed. Stops at the first unequal outputs and returns what is wrong.
    """
    ours: list[Round] = []
    peer: list[Round] = []
    first = pair.ours().outputs, pair.peer().outputs
    if case.note:
        say(f"  {case.note(*first)}")
    if problem := case.check(*first):
        return ours, peer, problem
    say("  outputs equal")
    for number in range(rounds):
        for mine in (True, False) if number % 2 == 0 else (False, True):
            (ours if mine else peer).append(pair.ours() if mine else pair.peer())
        if problem := case.check(ours[-1].outputs, peer[-1].outputs):
            return ours, peer, f"round {number + 1}: {problem}"
        one, other = case.rate(ours[-1]), case.rate(peer[-1])
        say(f"  round {number + 1}/{rounds}: {figure(one)} / {figure(other)} {case.unit} = {one / other:.3f}")
    return ours, peer, None


def summarise(
    case: Case, ours: Sequence[Round], peer: Sequence[Round], problem: str | None, versions: Mapping[str, str]
) -> Result:
    """Medians over the rounds; without a round there are no figures."""
    ratios = [case.rate(mine) / case.rate(other) for mine, other in zip(ours, peer, strict=True)]
    return Result(
        case=case.name,
        ours=statistics.median(map(case.rate, ours)) if ours else None,
        peer=statistics.median(map(case.rate, peer)) if peer else None,
        ratio=statistics.median(ratios) if ratios else None,
        goal=case.goal,
        outputs_equal=problem is None,
        unit=case.unit,
        rounds=len(ratios),
        versions=versions,
    )


def figure(rate: float) -> str:
    """A rate with about three digits that mean something."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def spread(ratios: Sequence[float]) -> str:
    """Quartiles and range, in words."""
    if len(ratios) < 2:
        return "one round"
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"quartiles {low:.3f} to {high:.3f}, range {min(ratios):.3f} to {max(ratios):.3f}"


MISSING = "not installed"


def versions_of(libraries: Sequence[str]) -> dict[str, str]:
    """Python's version and those of distributions."""
    versions = {"python": platform.python_version()}
    for name in libraries:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = MISSING
    return versions


def machine() -> str:
    """CPU model and cores this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {len(os.sched_getaffinity(0))} cores"
