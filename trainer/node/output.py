"""What ranks print: passed on line by line, the last of it kept, and their reasons for failing held back."""

import contextlib
import os
from collections import deque
from collections.abc import Sequence

from configs.lines import FAILURE, parse, read_failure

LONGEST_LINE = 1 << 16


class Relay:
    """Of several ranks that fail one is the cause: their reasons are collected here, and the agent tells one."""

    def __init__(self) -> None:
        self.failures: dict[int, tuple[int, str]] = {}
        """Exit code and reason that a rank gave, its first"""
        self.last_words: dict[int, str] = {}
        """The newest line of each rank that is not empty"""
        self._parts: dict[int, bytes] = {}
        self._last: deque[bytes] = deque(maxlen=200)

    def last(self) -> Sequence[str]:
        """The newest lines of all ranks, in the order in which they came."""
        return [line.decode("utf-8", "replace").rstrip("\n") for line in self._last]

    def feed(self, rank: int, content: bytes) -> None:
        """Take what a rank printed, which may end within a line."""
        *lines, rest = (self._parts.get(rank, b"") + content).split(b"\n")
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._parts[rank] = rest
        for line in lines:
            self._pass_on(rank, line + b"\n")

    def close(self, rank: int) -> None:
        """The rank has ended; so has its last line."""
        if rest := self._parts.pop(rank, b""):
            self._pass_on(rank, rest + b"\n")

    def _pass_on(self, rank: int, line: bytes) -> None:
        self._last.append(line)
        text = line.decode("utf-8", "replace").rstrip()
        self.last_words[rank] = text or self.last_words.get(rank, "")
        found = parse(text)
        if found and found.mark == FAILURE:
            self.failures.setdefault(rank, read_failure(found))
            return
        with contextlib.suppress(OSError):  # nobody reads, or the disk is full: the ranks go on
            while line:
                line = line[os.write(1, line) :]
