"""What wakes the agent: a rank that ended, a signal to itself, output of a rank."""

import selectors
import signal
import socket
from types import FrameType

from configs.process import STOPPING


class Bell:
    """Waits for several things at once without a thread, and remembers the signals that ask for an end."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._selector = selectors.DefaultSelector()
        self._hear, self._ring = socket.socketpair()
        for end in (self._hear, self._ring):
            end.setblocking(False)
        self._selector.register(self._hear, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._ring.fileno(), warn_on_full_buffer=False)
        for number in (*STOPPING, signal.SIGCHLD):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in STOPPING:
            self.received.append(number)

    def listen(self, descriptor: int) -> None:
        """Wake when a file descriptor can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ)

    def forget(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)

    def wait(self, timeout_s: float) -> list[int]:
        """Sleep until something happens, `timeout_s` at most; the file descriptors that can be read."""
        ready = [key.fd for key, _ in self._selector.select(timeout_s)]
        if self._hear.fileno() in ready:
            ready.remove(self._hear.fileno())
            while True:
                try:
                    self._hear.recv(4096)
                except BlockingIOError:
                    break
        return ready
