"""What the pods of a job print, each followed in a thread of its own, every line once however often it is cut."""

import threading
import time
from collections.abc import Callable

from k8s.api import Api, CutError, RefusedError

PAUSE_S = 1.0
"""Between two connections to a pod's log"""
Take = Callable[[int, bytes], None]
"""Receives a node's number and a line without its end; called from many threads"""


class PodLogs:
    """Follows the logs of pods as they are named, until `close`."""

    def __init__(self, api: Api, take: Take, *, container: str = "") -> None:
        self.api, self.take, self.container = api, take, container
        self._threads: dict[str, threading.Thread] = {}
        self._done: dict[str, threading.Event] = {}
        self._ended = threading.Event()
        self._error: OSError | None = None

    def follow(self, uid: str, pod: str, node: int) -> None:
        """Begin with a pod whose container has started; a pod that is followed already goes on."""
        if uid in self._threads:
            return
        self._done[uid] = threading.Event()
        thread = threading.Thread(target=self._run, args=(uid, pod, node), daemon=True, name=f"log {pod}")
        self._threads[uid] = thread
        thread.start()

    def end(self, uid: str) -> None:
        """A pod has ended: its log is read to the end, and not waited for after that."""
        if uid in self._done:
            self._done[uid].set()

    def check(self) -> None:
        """Raises the OSError that has kept a line from being taken, such as that of a terminal that is closed."""
        if self._error:
            raise self._error

    def drain(self, timeout_s: float) -> None:
        """Wait until the logs of the pods that have ended are read."""
        deadline = time.monotonic() + timeout_s
        for uid, thread in self._threads.items():
            if self._done[uid].is_set():
                thread.join(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Let go of every log."""
        self._ended.set()
        for done in self._done.values():
            done.set()

    def _run(self, uid: str, pod: str, node: int) -> None:
        """Lines that were given already have an earlier time, or the same and stood among the first of it."""
        last, same, done = b"", 0, self._done[uid]
        while not self._ended.is_set():
            over, skip = done.is_set(), same
            try:
                for line in self.api.log(pod, since=second_of(last), container=self.container):
                    stamp, _, text = line.partition(b" ")
                    if stamp < last:
                        continue
                    if stamp == last and skip:
                        skip -= 1
                        continue
                    same, skip = (same + 1, skip) if stamp == last else (1, 0)
                    last = stamp
                    if not self._taken(node, text) or self._ended.is_set():
                        return
            except CutError:
                over = False
            except RefusedError:
                pass
            if over:  # the connection that has just ended began after the pod's end
                return
            done.wait(PAUSE_S)

    def _taken(self, node: int, text: bytes) -> bool:
        try:
            self.take(node, text)
        except OSError as error:
            self._error = error
            self._ended.set()
            return False
        return True


def second_of(stamp: bytes) -> str:
    """A line's time without the parts of its second, which `sinceTime` does not know; empty for no line."""
    text = stamp.decode("ascii", "replace")
    return text[:19] + text[19:].lstrip(".0123456789")
