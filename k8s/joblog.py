"""What the nodes of a job print: kept in a file, shown to a person, and searched for why it failed."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from configs.lines import FAILURE, Line, follows_from_peer, parse, read_failure
from k8s.job import Job
from k8s.podview import PERMANENT


class JobLog:
    """The output of all nodes in one file, each line with its node's number where there are several."""

    def __init__(self, path: Path, job: Job, show: Callable[[Line], None]) -> None:
        self.show, self._several = show, job.run.cluster.nodes > 1
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()
        self._failures: list[Line] = []

    def write(self, node: int, line: bytes) -> None:
        """Take a line without its end; may be called from many threads."""
        found = parse(line.decode("utf-8", "replace"))
        with self._lock:
            # a full disk or a closed terminal must not stop the reading
            with contextlib.suppress(OSError, ValueError):
                self._file.write((b"node %d: " % node if self._several else b"") + line + b"\n")
            if found and found.mark == FAILURE:
                self._failures.append(found)
            elif found:
                with contextlib.suppress(OSError):
                    self.show(found)

    def failure(self) -> tuple[int, str]:
        """Exit code and reason that the last failing node gave for itself; an empty reason where none did.

        A failure of the program tells more than being stopped, which is what happens to the other nodes then, and that
        more than a lost peer.
        """
        with self._lock:
            own = [line for line in self._failures if not follows_from_peer(line)]
            permanent = [line for line in own if read_failure(line)[0] in PERMANENT]
            last = (permanent or own or self._failures)[-1:]
            return read_failure(last[0]) if last else (1, "")

    def close(self) -> None:
        with self._lock:
            self._file.close()
