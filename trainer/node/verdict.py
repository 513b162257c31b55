"""Why a start ended, from what its ranks did: the first cause, not what followed from it."""

import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from configs.process import LOST_PEER
from trainer.heartbeat import PHASES, Reading

RETRY = 137
"""Exit code of a node that lost a rank: an operator starts again after codes of 128 or more"""
STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGINT}


@dataclass
class Facts:
    """How the ranks of one start ended."""

    ended: list[tuple[int, int]] = field(default_factory=list)
    """Rank and exit code (a signal as a negative number) in the order in which they ended by themselves"""
    failures: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    """Exit code and reason by rank, of those that gave one"""
    last_words: Mapping[int, str] = field(default_factory=dict)
    """What each rank printed last"""
    readings: Mapping[int, Reading] = field(default_factory=dict)
    """Where each rank last was"""
    silent: Sequence[int] = ()
    """Ranks that held the others up"""
    silent_s: float = 0.0
    asked: int = 0
    """The signal that asked the agent to end, or 0"""
    overdue: Sequence[int] = ()
    """Ranks that were asked to stop and had to be killed"""
    departed: tuple[str, int | None] | None = None
    """What is to be said of another node that ended before this one, and its exit code where it gave one"""


@dataclass(frozen=True)
class Ending:
    """What a start came to."""

    kind: Literal["done", "dead", "silent", "failed", "stopped"]
    code: int = 0
    """As a shell gives it"""
    reason: str = ""
    rank: int | None = None
    """The one to blame"""
    killed_by: str | None = None
    """Name of the signal that ended it"""
    by_peer: bool = False
    """Whether it only follows from the end of a rank that others watch over"""

    @property
    def retryable(self) -> bool:
        """Whether the same may go well the next time."""
        return self.kind in ("dead", "silent")


def judge(facts: Facts, *, nodes: int = 1, memory_ran_out: bool = False) -> Ending:
    """Name the cause. `memory_ran_out`: the kernel says that it killed somebody for want of memory meanwhile."""
    if facts.silent:
        reason = describe_silence(facts, nodes)
        return Ending("silent", RETRY, reason, facts.silent[0])
    for rank, code in facts.ended:
        if code < 0 and not (facts.asked and code == -signal.SIGTERM):
            return _killed(rank, -code, facts.readings[rank], memory_ran_out)
        if rank in facts.failures and code not in STOPPED:
            return Ending("failed", code, _name_rank(rank, facts), rank)
    codes = {code: rank for rank, code in reversed(facts.ended)}
    if facts.departed and not facts.asked:
        return _left_alone(*facts.departed)
    if facts.asked and (set(codes) != {0} or facts.overdue):
        return Ending("stopped", 128 + facts.asked, _describe_stop(facts))
    if STOPPED & codes.keys():
        return Ending("stopped", 128 + signal.SIGTERM, _describe_stop(facts))
    for code, rank in codes.items():
        if code not in (0, LOST_PEER):
            reason = f"rank {rank} ended with exit code {code}; its last words: {facts.last_words.get(rank, 'none')}"
            return Ending("failed", code, reason, rank)
    if LOST_PEER in codes:
        rank = codes[LOST_PEER]
        place = describe_place(facts.readings[rank])
        elsewhere = "; look at the other nodes" if nodes > 1 else ""
        reason = f"rank {rank} lost its connection to another rank {place}{elsewhere}"
        return Ending("dead", RETRY, reason, rank, by_peer=nodes > 1)
    return Ending("done")


def _left_alone(words: str, code: int | None) -> Ending:
    """Another node has ended: for good with the code that it gave, else to be started again with it."""
    if code is None or code == RETRY or (code >= 128 and code not in STOPPED):
        return Ending("dead", RETRY, words, by_peer=True)
    return Ending("stopped" if code in STOPPED else "failed", code, words, by_peer=True)


def _killed(rank: int, number: int, reading: Reading, memory_ran_out: bool) -> Ending:
    name = signal.Signals(number).name
    hint = ""
    if number == signal.SIGKILL:
        hint = "; the kernel ran out of memory" if memory_ran_out else "; was memory short?"
    kind = "stopped" if 128 + number in STOPPED else "dead"
    return Ending(kind, 128 + number, f"rank {rank} was killed by {name} {describe_place(reading)}{hint}", rank, name)


def _name_rank(rank: int, facts: Facts) -> str:
    """A reason with the rank that gave it, unless it is the user's mistake or they all say the same."""
    code, reason = facts.failures[rank]
    everyone = {facts.failures.get(each) for each in facts.readings}
    return reason if code == 2 or len(everyone) == 1 else f"rank {rank}: {reason}"


def _describe_stop(facts: Facts) -> str:
    reasons = [reason for code, reason in facts.failures.values() if code in STOPPED]
    parts = reasons[:1] or [f"stopped by {signal.Signals(facts.asked or signal.SIGTERM).name}"]
    if facts.overdue:
        parts.append(f"{name_ranks(facts.overdue)} did not end in time and had to be killed")
    return "; ".join(parts)


def describe_silence(facts: Facts, nodes: int) -> str:
    reading = facts.readings[facts.silent[0]]
    verb = "was" if len(facts.silent) == 1 else "were"
    words = f"{name_ranks(facts.silent)} {verb} silent for {facts.silent_s:.0f} s {describe_place(reading)}"
    alike = len(facts.silent) == len(facts.readings)
    return words + ("; a rank of another node may hold them up" if alike and nodes > 1 else "")


def describe_place(reading: Reading) -> str:
    """`in compute of step 7`."""
    if reading.phase == PHASES[0]:
        return "at its start"
    return f"in {reading.phase} of step {reading.step}" if reading.step else f"in {reading.phase}"


def name_ranks(ranks: Collection[int]) -> str:
    """`rank 1`, `ranks 0 and 1`, `ranks 0, 1 and 2`."""
    *most, last = map(str, ranks)
    return f"ranks {', '.join(most)} and {last}" if most else f"rank {last}"
