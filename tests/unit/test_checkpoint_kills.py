"""A process that is killed at any write, flush, rename or removal of a save leaves a whole checkpoint behind."""

import io
import json
import os
import shutil
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from configs.stages import step_folder, steps_in
from tests.tiny import Memory, checkpoints
from trainer.checkpoint import TrainState
from trainer.distributed import World

ORIGIN = {"data": "d" * 64, "config": "c" * 64}


class Killer:
    """Ends this process like a power cut at its change number `at` of the disk, counted from 1.

    A write is torn in the middle, and what nobody has flushed by then is lost.
    """

    def __init__(self, at: int) -> None:
        self.left = at
        self.unflushed: dict[int, int] = {}  # by inode, a descriptor of the file

    def install(self) -> None:
        """For the rest of this process's life."""
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
            setattr(os, name, self.counted(getattr(os, name)))
        self.write, self.open, self.flush = os.write, os.open, os.fsync
        os.write, os.open, os.fsync = self.write_counted, self.open_counted, self.flush_counted  # type: ignore[assignment]
        io.open = self.open_file  # type: ignore[assignment]  # pathlib's

    def change(self) -> bool:
        """Whether this change of the disk is the fatal one."""
        self.left -= 1
        return self.left == 0

    def die(self) -> None:
        for descriptor in self.unflushed.values():
            os.ftruncate(descriptor, 0)
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if self.change():
                self.die()
            return original(*args, **kwargs)

        return wrapper

    def open_counted(self, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT and self.change():
            self.die()
        return self.open(path, flags, *args, **kwargs)

    def open_file(self, path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "w" not in mode:
            return _open_file(path, mode, *args, **kwargs)
        if self.change():
            self.die()
        file, killer = io.FileIO(path, "w"), self

        class Counted(io.RawIOBase):
            def writable(self) -> bool:
                return True

            def fileno(self) -> int:
                return file.fileno()

            def write(self, content: Any) -> int:
                return killer.write_counted(file.fileno(), content)

            def close(self) -> None:
                super().close()
                file.close()

        return io.BufferedWriter(Counted())

    def write_counted(self, descriptor: int, content: Any) -> int:
        if descriptor > 2:  # what is said on the screen is no change of the disk
            self.unflushed.setdefault(os.fstat(descriptor).st_ino, os.dup(descriptor))
            if self.change():
                self.write(descriptor, content[: len(content) // 2])
                self.die()
        return self.write(descriptor, content)

    def flush_counted(self, descriptor: int) -> None:
        if self.change():
            self.die()
        self.flush(descriptor)
        self.unflushed.pop(os.fstat(descriptor).st_ino, None)


_open_file = io.open


def child(work: Callable[[], None]) -> int:
    """A process that does this, started from one that has torch."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return process


def end_of(process: int) -> int:
    """Its exit code; negative, the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def died(work: Callable[[], None], *, at: int) -> bool:
    """Whether a process that does the work came to its change number `at` of the disk, where it is killed."""

    def doomed() -> None:
        Killer(at).install()
        work()

    code = end_of(child(doomed))
    assert code in (0, -signal.SIGKILL)
    return code != 0


def memory(step: int) -> Memory:
    weights = {"a": torch.full((3, 4), float(step)), "b": torch.arange(step, step + 5)}
    return Memory({"weights": weights, "optimizer": {"a/step": torch.tensor(float(step))}})


def save(root: Path, *steps: int, **settings: Any) -> None:
    saver = checkpoints(root, ORIGIN, **settings)
    for step in steps:
        saver.save({"model": memory(step)}, TrainState(step, 8 * step, f"{step:02d}" * 32), {"train/loss": 1.5})


def newest(root: Path) -> int | None:
    """The step that the next start finds and loads, its numbers looked at."""
    reader, engine = checkpoints(root, ORIGIN), Memory({})
    step = reader.latest()
    if step is not None:
        state = reader.load(step, {"model": engine})
        assert state == TrainState(step, 8 * step, f"{step:02d}" * 32)
        for kind, tensors in memory(step).tensors.items():
            assert all(engine.tensors[kind][name].equal(tensor) for name, tensor in tensors.items())
    return step


def damage(root: Path, step: int) -> None:
    path = next(step_folder(root, step).glob("model.weights.*"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def damaged_newest(root: Path) -> None:
    save(root, 1, 3)
    damage(root, 3)


BEFORE: dict[str, tuple[Callable[[Path], None], dict[str, Any], int | None]] = {
    "nothing": (lambda root: None, {}, None),
    "two others, of which none stays": (lambda root: save(root, 1, 2), {"keep": 1}, 2),
    "the same step": (lambda root: save(root, 3), {"keep": 1}, 3),
    "the same step, damaged": (damaged_newest, {}, 1),
}
"""What was there, how it is saved to, and what is loaded if the save does not come to its end"""


@pytest.mark.parametrize("name", BEFORE)
def test_a_kill_at_any_change_of_the_disk_leaves_the_step_before_or_the_new_one(tmp_path: Path, name: str) -> None:
    prepare, settings, before = BEFORE[name]
    prepare(tmp_path / "before")
    (tmp_path / "before").mkdir(exist_ok=True)
    found: list[int | None] = []
    for number in range(1, 200):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "before", root)
        killed = died(lambda root=root: save(root, 3, **settings), at=number)
        found.append(newest(root))
        assert not list(root.glob("*.part"))
        if not killed:
            break
        if number % 6 == 0:  # and what the killed one left is not in the way of the next
            save(root, 4, **settings)
            assert newest(root) == 4
    assert len(found) > 20, "the counting missed most of the save"
    assert found[0] == before
    assert found[-1] == 3
    done = found.index(3)
    assert set(found[:done]) <= {before}
    assert set(found[done:]) == {3}


def rank(root: Path, number: int, at: int | None) -> None:
    """One of two ranks that save step 3, killed at its change `at` of the disk."""
    dist.init_process_group(
        "gloo", init_method=f"file://{root}/meeting", rank=number, world_size=2, timeout=timedelta(seconds=60)
    )
    world = World(rank=number, local_rank=number, size=2, device=torch.device("cpu"))
    saver = checkpoints(root, ORIGIN, world)
    assert saver.latest() == 2
    pieces = Memory({kind: dict(list(named.items())[number::2]) for kind, named in memory(3).tensors.items()})
    if at is not None:
        Killer(at).install()
    saver.save({"model": pieces}, TrainState(3, 24, "03" * 32), {})


@pytest.mark.parametrize(
    ("doomed", "at", "expected"), [(None, None, 3), (0, 4, 2), (1, 2, 2), (1, 3, 2), (0, 12, 2), (0, 16, 3)]
)
def test_a_rank_that_is_killed_while_two_save_leaves_a_whole_step_and_ends_the_other(
    tmp_path: Path, doomed: int | None, at: int | None, expected: int
) -> None:
    save(tmp_path, 1, 2)
    ranks = [child(lambda number=number: rank(tmp_path, number, at if number == doomed else None)) for number in (0, 1)]
    codes = [end_of(process) for process in ranks]
    if doomed is None:
        assert codes == [0, 0]
    else:
        assert codes[doomed] == -signal.SIGKILL
        assert codes[1 - doomed] == 1  # told by the lost connection, not by a time limit
    (tmp_path / "meeting").unlink(missing_ok=True)
    assert newest(tmp_path) == expected
    assert steps_in(tmp_path)[0] == expected
    if expected == 3:
        assert len(json.loads((step_folder(tmp_path, 3) / "complete.json").read_text())["files"]) == 3
