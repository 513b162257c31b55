"""One start of this node's ranks, from the first fork to the last one's end."""

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.heartbeat import PULSES, PulseReader, stack_file
from trainer.node.bell import Bell
from trainer.node.output import Relay
from trainer.node.peers import Peers
from trainer.node.silence import Silence, standing, to_blame
from trainer.node.verdict import STOPPED, Facts

TICK_S = 0.1
SETTLE_S = 1.0
"""How long the others have to end by themselves, and perhaps name the cause, when a rank has failed"""
DYING_S = 10.0
"""How long a killed rank may take to be gone; one that hangs in the kernel takes for ever"""
STACKS_S = 1.0

Begin = Callable[[Mapping[str, str], int], int]
"""Starts a rank with these variables and this output; returns its process number"""


@dataclass
class Rank:
    """A process of this node."""

    number: int
    process: int
    output: int
    """Where the agent reads what it prints"""
    code: int | None = None
    """How it ended, a signal as a negative number"""


class Start:
    """This node's ranks while they run."""

    def __init__(
        self,
        begin: Begin,
        environments: Mapping[int, Mapping[str, str]],
        pulses: Path,
        bell: Bell,
        peers: Peers,
        *,
        timeout_s: float,
        grace_s: float,
    ) -> None:
        self.pulses, self.bell, self.peers, self.grace_s, self.relay = pulses, bell, peers, grace_s, Relay()
        self.facts = Facts(failures=self.relay.failures, last_words=self.relay.last_words)
        self._deadline = math.inf
        self.readers = {rank: PulseReader(pulses, rank) for rank in environments}
        self.ranks = [
            self._begin(begin, rank, {**environment, PULSES: str(pulses)}) for rank, environment in environments.items()
        ]
        self.silence = Silence(self.readers, {rank.number: rank.process for rank in self.ranks}, timeout_s)

    def _begin(self, begin: Begin, number: int, environment: Mapping[str, str]) -> Rank:
        read, write = os.pipe()
        stack_file(self.pulses, number).unlink(missing_ok=True)
        try:
            process = begin(environment, write)
        finally:
            os.close(write)
        with contextlib.suppress(OSError):  # a spawned one is in its group already
            os.setpgid(process, process)
        os.set_blocking(read, False)
        self.bell.listen(read)
        return Rank(number, process, read)

    @property
    def running(self) -> list[Rank]:
        return [rank for rank in self.ranks if rank.code is None]

    def follow(self) -> Facts:
        """Until every rank has ended: by itself, or killed when it was to end and did not.

        A rank that fails has its peers ended after SETTLE_S seconds; ranks that were asked to stop have `grace_s`; when
        one holds the others up without a sign for `timeout_s`, every rank's stacks are taken and all are killed.
        """
        looked = time.monotonic()
        while self.running and time.monotonic() < self._deadline:
            ready = self.bell.wait(TICK_S)
            self.peers.alive()
            self._read(ready)
            for rank in self.running:
                self._collect(rank)
            self._look_around(ready)
            self._pass_on_stop()
            now = time.monotonic()
            self.silence.look(now - looked)
            looked = now
            running = [rank.number for rank in self.running]
            if not self.facts.asked and (silent := self.silence.culprits(running)):
                self._take_stacks()
                stacks = {rank: stack_file(self.pulses, rank) for rank in silent}
                self.facts.silent = to_blame(silent, stacks, {rank.number: rank.process for rank in self.ranks})
                self.facts.silent_s = self.silence.silent_s(self.facts.silent[0])
                break
        if self.facts.asked:
            self.facts.overdue = [rank.number for rank in self.running]
        self._kill()
        self.facts.readings = {rank: reader.read() for rank, reader in self.readers.items()}
        return self.facts

    def _read(self, ready: list[int]) -> None:
        for rank in self.ranks:
            if rank.output in ready:
                self._drain(rank)

    def _drain(self, rank: Rank) -> None:
        """Pass on what a rank has printed so far."""
        try:
            while content := os.read(rank.output, 1 << 16):
                self.relay.feed(rank.number, content)
        except BlockingIOError:
            return
        self.bell.forget(rank.output)  # it has closed its output: an end of file would wake us for ever
        os.close(rank.output)
        rank.output = -1

    def _collect(self, rank: Rank) -> None:
        """See whether a rank has ended, and if so end what it started and decide how long its peers have."""
        if not self._reap(rank):
            return
        assert rank.code is not None
        self.facts.ended.append((rank.number, rank.code))
        if rank.code == 0:
            return
        patience = 0.0 if rank.code < 0 else SETTLE_S
        if rank.code in STOPPED or (self.facts.asked and rank.code == -signal.SIGTERM):
            patience = self.grace_s  # the others may still save
        self._deadline = min(self._deadline, time.monotonic() + patience)

    def _reap(self, rank: Rank) -> bool:
        if os.waitid(os.P_PID, rank.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        self._signal(rank, signal.SIGKILL)  # its group: workers of a loader hold the run folder's lock too
        rank.code = os.waitstatus_to_exitcode(os.waitpid(rank.process, 0)[1])
        if rank.output >= 0:
            self._drain(rank)
        if rank.output >= 0:  # a descendant outside of its group still has it
            self.bell.forget(rank.output)
            os.close(rank.output)
            rank.output = -1
        self.relay.close(rank.number)
        return True

    def _look_around(self, ready: list[int]) -> None:
        """When another node has ended by anything but success, so do the ranks of this one."""
        for departure in self.peers.departures(ready):
            if departure.code != 0 and not self.facts.departed:
                self.facts.departed = (departure.words, departure.code)
                patience = self.grace_s if departure.code in STOPPED else SETTLE_S
                self._deadline = min(self._deadline, time.monotonic() + patience)

    def _pass_on_stop(self) -> None:
        """The first signal goes on to the ranks, which save; the second ends the waiting."""
        received = self.bell.received
        if received and not self.facts.asked:
            self.facts.asked = received[0]
            self._deadline = min(self._deadline, time.monotonic() + self.grace_s)
            for rank in self.running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank.process, signal.SIGTERM)
        if len(received) > 1:
            self._deadline = 0.0

    def _take_stacks(self) -> None:
        """Have every running rank write its stacks, or write why it cannot."""
        deadline = time.monotonic() + STACKS_S
        for rank in self.running:
            if reason := standing(rank.process):
                stack_file(self.pulses, rank.number).write_text(f"no stacks: the process was {reason}\n")
            elif stack_file(self.pulses, rank.number).exists():  # else it would die of the signal
                os.kill(rank.process, signal.SIGUSR1)
        sizes = None
        while time.monotonic() < deadline:
            files = [stack_file(self.pulses, rank.number) for rank in self.running]
            now = [path.stat().st_size if path.exists() else 0 for path in files]
            if all(now) and now == sizes:
                return
            sizes = now
            self._read(self.bell.wait(TICK_S))

    def _kill(self) -> None:
        """End all that still run, and wait until they are gone."""
        for rank in self.running:
            self._signal(rank, signal.SIGKILL)
        deadline = time.monotonic() + DYING_S
        while self.running and time.monotonic() < deadline:
            for rank in self.running:
                self._reap(rank)
            if self.running:
                self._read(self.bell.wait(TICK_S))

    def _signal(self, rank: Rank, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(rank.process, number)
