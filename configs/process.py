"""How processes behave: a stage dies with its parent, and each says in one line why it failed."""

import contextlib
import ctypes
import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from configs.errors import DamageError, OutageError, PeerError, Stopped, UserError
from configs.folder import RunFolder
from configs.lines import emit_failure

if TYPE_CHECKING:
    from configs.schema import RunConfig

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that ask for an end"""
LOST_PEER = 77
"""Exit code of a rank that ended because another one is gone, which is the cause and not this one"""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Numbers of the errors of a disk that is full or cannot be written"""
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def die_with_parent(parent: int | None = None, *, by: int = signal.SIGKILL) -> None:
    """Ask the kernel for a signal when the parent ends, so that a killed command leaves nothing behind (Linux).

    `parent` is the expected parent's process number: if it is gone already, exit at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)
        if parent is not None and os.getppid() != parent:
            os._exit(137)


def name_process(name: str) -> None:
    """What `ps -o comm` shows of this process: 15 letters at most (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15])


def die_with_session(interval_s: float = 0.5) -> None:
    """End when the leader of this process's session is gone: for a child of a shell, which outlives its own parent."""
    leader = os.getsid(0)

    def watch() -> None:
        while True:
            time.sleep(interval_s)
            try:
                os.kill(leader, 0)
            except ProcessLookupError:
                os._exit(137)

    if leader not in (0, os.getpid()):
        threading.Thread(target=watch, daemon=True).start()


def stage_main(stage: str, command: Callable[["RunConfig", RunFolder], None]) -> int:
    """Run a stage in the folder that the command line names; returns its exit code."""
    from configs.load import read  # here: commands that need no schema answer at once

    die_with_parent()
    folder = RunFolder(Path(sys.argv[1]))
    try:
        command(read(folder.config), folder)
    except (UserError, DamageError, OutageError, Stopped) as error:
        emit_failure(stage, error.exit_code, str(error))
        return error.exit_code
    except PeerError as error:
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        if lost_peer(error):
            return LOST_PEER  # the node agent names the rank that ended first
        emit_failure(stage, 1, explain(error, stage, folder))
        return 1
    return 0


def command_main(name: str, work: Callable[[], int]) -> int:
    """Do what was asked in a terminal; returns the exit code, and says in one line why it is not 0."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a test's stand-in
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return work()
    except (UserError, DamageError, OutageError) as error:
        print(f"trainworks {name}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever read the output has left
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the interpreter flushes it at its end
        return 141
    except OSError as error:
        told = f"{error.filename or ''}: {error.strerror or error}"
        remedy = "; make room or mend the rights, then run the same command again" if error.errno in DISK else ""
        print(f"trainworks {name}: {told}{remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def leave(code: int) -> NoReturn:
    """End this process now, without taking the interpreter down piece by piece.

    Threads of torch and gloo that still run meanwhile can abort it ("terminate called without an active exception"),
    which would turn a finished stage into a failed one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def lost_peer(error: Exception) -> bool:
    """Whether a collective failed because another rank is gone."""
    words = (
        *("Connection reset by peer", "Connection closed by peer", "Broken pipe", "Connection was likely closed"),
        *("Timed out waiting", "NCCL communicator was aborted", "remote process exited"),
    )
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def memory_short(error: Exception) -> bool:
    """Whether an allocation failed, on a device or in torch's or Python's own memory."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def explain(error: Exception, stage: str, folder: RunFolder) -> str:
    """One line for a failure that the program does not blame on anybody."""
    if isinstance(error, OSError) and error.errno in DISK:
        return explain_disk(error, folder)
    if isinstance(error, FloatingPointError):  # training ran away, and whoever noticed has said what to do
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    if memory_short(error):
        remedy = "; try a smaller world.micro_batch_samples, world.recompute=true or a higher world.zero.stage"
        detail = f": {error}" if str(error) else ""
        return f"out of memory at {place}{detail}{remedy if stage == 'train' else ''}"
    return f"{type(error).__name__} at {place}: {error}; the whole traceback is in {folder.log(stage)}"


def explain_disk(error: OSError, folder: RunFolder) -> str:
    """One line for a disk that is full or cannot be written."""
    where = error.filename or folder.path
    what = "no space left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
    return f"{where}: {what}; what was finished is kept: make room or mend the rights, then run the same command again"
