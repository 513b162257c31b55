"""A supervised child on this machine: followed, told to stop, and gone with everything it started."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from configs.lines import FAILURE, Line, parse
from configs.process import STOPPING, die_with_parent


class Supervised:
    """A command in its own session that the kernel kills when this process ends.

    Its output goes line by line to `log`; the lines for a person are passed to `show`, and the first that says why it
    failed stands in `failure`.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        show: Callable[[Line], None],
        *,
        grace_s: float = 120.0,
    ) -> None:
        parent = os.getpid()
        self.log, self.grace_s, self.received = log, grace_s, list[int]()
        self.failure: Line | None = None
        with contextlib.ExitStack() as unless_started:
            record = unless_started.enter_context(log.open("ab", buffering=0))
            self._log_start = record.seek(0, os.SEEK_END)  # what stands before is of earlier starts
            self._process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent),
            )
            unless_started.pop_all()
        self._reader = threading.Thread(target=self._relay, args=(record, show), daemon=True)
        self._reader.start()

    def output(self) -> list[str]:
        """The lines of this start in the log."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode("utf-8", "replace").splitlines()

    def stop(self) -> None:
        """Ask the child to save and end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the child and all that it started in its session at once."""
        self._end_session()

    def wait(self) -> int:
        """Follow to the end and return the code as subprocess gives it.

        SIGTERM, SIGINT and SIGHUP to this process go on to the child once, as SIGTERM, and stand in `received`; a child
        that outlasts `grace_s` seconds after that, or a second signal, is killed.
        """
        with self._forwarding():
            code, waited = None, 0.0
            while code is None:
                try:
                    code = self._process.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    waited += 0.2 if self.received else 0.0
                    if waited > self.grace_s or len(self.received) > 1:
                        self._end_session()
        self._end_session()
        self._reader.join(10)
        return code

    @contextlib.contextmanager
    def _forwarding(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
            yield
            return
        old = {number: signal.signal(number, self._forward) for number in STOPPING}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _forward(self, number: int, frame: object) -> None:
        self.received.append(number)
        if len(self.received) == 1:
            self.stop()

    def _end_session(self) -> None:
        """Kill the child and what it started, also in groups of their own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for number in members(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def _relay(self, log: BinaryIO, show: Callable[[Line], None]) -> None:
        assert self._process.stdout
        with log, self._process.stdout:
            for line in self._process.stdout:
                # a full disk or a closed terminal must not stop the reading: the child would wait for it for ever
                with contextlib.suppress(OSError):
                    log.write(line)
                found = parse(line.decode("utf-8", "replace").rstrip("\n"))
                if found and found.mark == FAILURE:
                    self.failure = self.failure or found
                elif found:
                    with contextlib.suppress(OSError):
                        show(found)


def members(session: int) -> Iterator[int]:
    """Process numbers of a session (Linux)."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[3]) == session:
                yield int(path.parent.name)


def describe_signal(number: int) -> str:
    return signal.Signals(number).name


def last_lines(output: Sequence[str], path: Path, count: int = 20) -> str:
    """The end of a log, for an error that nobody foresaw."""
    return "\n".join([f"it ended without a reason; the last lines of {path}:", *output[-count:]])
