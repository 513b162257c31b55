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
from typing import NoReturn

from configs.errors import DamageError, OutageError, PeerError, Stopped, UserError
from configs.folder import RunFolder
from configs.lines import emit_failure
from configs.load import read
from configs.schema import RunConfig

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel for SIGKILL when the parent ends, so that a killed command leaves nothing behind (Linux).

    `parent` is the expected parent's process number: if it is gone already, exit at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent is not None and os.getppid() != parent:
            os._exit(137)


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


def stage_main(stage: str, command: Callable[[RunConfig, RunFolder], None]) -> int:
    """Run a stage in the folder that the command line names; returns its exit code."""
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
            return 1  # the rank that ended first is the cause, and is named by the launcher
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
        print(f"trainworks {name}: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
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
    words = ("Connection reset by peer", "Connection closed by peer", "NCCL communicator was aborted")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def explain(error: Exception, stage: str, folder: RunFolder) -> str:
    """One line for a failure that the program does not blame on anybody."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return explain_disk(error, folder)
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    return f"{type(error).__name__} at {place}: {error}; the whole traceback is in {folder.log(stage)}"


def explain_disk(error: OSError, folder: RunFolder) -> str:
    """One line for a disk that is full or cannot be written."""
    where = error.filename or folder.path
    what = "no space left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
    return f"{where}: {what}; what was finished is kept: make room or mend the rights, then run the same command again"
