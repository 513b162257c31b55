"""Units of work: each a pure function of files before it, done once, by any process, in any order."""

import multiprocessing
import multiprocessing.context
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass

from configs.errors import DamageError
from configs.folder import RunFolder
from configs.process import die_with_parent
from configs.schema import RunConfig
from data.phases.work import Work
from data.progress import Progress


@dataclass(frozen=True)
class Phase:
    """One kind of unit. `run(work, number)` leaves the unit's record, last."""

    name: str
    run: Callable[[Work, int], None]
    units: Callable[[Work], int]
    """How many units there are; known once the phases before are done"""
    verb: str
    """What a person sees"""


@dataclass(frozen=True)
class Share:
    """Part `part` of `parts` of every phase's units: what one of several pods does."""

    part: int = 0
    parts: int = 1

    def of(self, units: int) -> range:
        return range(self.part, units, self.parts)


ALONE = Share()
_PRELOADED = (
    "data.cleaning.filters",
    "data.phases.encoding",
    "data.phases.overlap",
    "data.phases.reading",
    "data.phases.writing",
)


class Workers:
    """Processes that run units; none for a single one, whose units run here."""

    def __init__(self, work: Work, count: int, share: Share = ALONE) -> None:
        self.work, self.count, self.share = work, count, share
        self._pool: ProcessPoolExecutor | None = None

    def run(self, phase: Phase) -> None:
        """Do every unit of the share that is not done. Raises what a unit raised."""
        units = phase.units(self.work)
        mine = self.share.of(units)
        todo = [number for number in mine if not self.work.done(phase.name, number)]
        if not todo:
            return
        (self.work.path / phase.name).mkdir(parents=True, exist_ok=True)
        progress = Progress("prepare", len(mine), phase.verb, start=len(mine) - len(todo))
        finished = self._parallel(phase, todo) if self.count > 1 and len(todo) > 1 else self._here(phase, todo)
        for done, _ in enumerate(finished, start=len(mine) - len(todo) + 1):
            if progress.due():
                progress.show(done)

    def alone(self, function: Callable[[Work], None]) -> None:
        """Do what needs much memory while nobody else holds any, in a process that gives all of it back."""
        if self.count == 1:
            function(self.work)
            return
        self.close()
        with self._processes(1) as pool, _said_when_killed(function.__name__.strip("_")):
            pool.submit(_alone, function).result()

    def _here(self, phase: Phase, todo: Sequence[int]) -> Iterator[None]:
        for number in todo:
            yield phase.run(self.work, number)

    def _parallel(self, phase: Phase, todo: Sequence[int]) -> Iterator[None]:
        if self._pool is None:
            self._pool = self._processes(self.count)
        waiting: set[Future[None]] = set()
        queue = iter(todo)
        with _said_when_killed(phase.name):
            while True:
                for number in queue:
                    waiting.add(self._pool.submit(_run, phase, number))
                    if len(waiting) >= 2 * self.count:
                        break
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for each in done:
                    yield each.result()

    def _processes(self, count: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            count, mp_context=_context(), initializer=_begin, initargs=(self.work.run, self.work.folder)
        )

    def close(self) -> None:
        """End the processes; the next phase starts others."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextmanager
def _said_when_killed(what: str) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise DamageError(
            f"a worker process was killed in phase {what}, perhaps for want of memory; what was finished is "
            "kept: run the same command again, with a smaller world.prepare_workers if memory is short"
        ) from None


def _context() -> multiprocessing.context.ForkServerContext:
    """Workers are forked from a process that has imported everything and started nothing: a fork loses threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "data.phases.reading",
            "data.cleaning.filters",
            "data.phases.overlap",
            "data.phases.encoding",
            "data.phases.writing",
        ]
    )
    return context


_work: Work | None = None


def _begin(run: RunConfig, folder: RunFolder) -> None:
    """What each worker process does first."""
    global _work
    die_with_parent()
    threading.Thread(target=_die_with_prepare, daemon=True).start()
    _work = Work(run, folder)


def _die_with_prepare() -> None:
    """End when prepare does: a worker's parent is the forkserver, which lives as long as any worker."""
    prepare = multiprocessing.parent_process()
    assert prepare
    prepare.join()
    os._exit(137)


def _alone(function: Callable[[Work], None]) -> None:
    assert _work is not None
    function(_work)


def _run(phase: Phase, number: int) -> None:
    assert _work is not None
    phase.run(_work, number)
