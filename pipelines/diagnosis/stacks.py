"""Where a rank stood: the calls of its main thread in a dump of Python's faulthandler."""

import re
from collections.abc import Sequence
from typing import NamedTuple

FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+|\?\?\?),? in (?P<function>.+?)\s*$')
"""A call as tracebacks and dumps print it"""
_THREAD = re.compile(r"^(?P<current>Current t|T)hread 0x[0-9a-f]+.*:$")
_LIBRARIES = re.compile(
    r"/(?:site|dist)-packages/(?!(?:configs|data|trainer|pipelines|k8s)/)"
    r"|/lib/python3[.\d]*/(?!site-packages/)|<frozen "
)
_COLLECTIVES = ("torch/distributed/", "deepspeed/comm/", "trainer/distributed.py")
_DEPTH = 10  # calls from the innermost among which a collective is looked for


class Frame(NamedTuple):
    """One call."""

    file: str
    line: str
    function: str

    def __str__(self) -> str:
        return f"{self.function} at {self.place}"

    @property
    def place(self) -> str:
        """The file, with its folder, and the line."""
        return f"{'/'.join(self.file.split('/')[-2:])}:{self.line}"

    @property
    def foreign(self) -> bool:
        """Whether it is of Python's library or of another package than this one."""
        return _LIBRARIES.search(self.file) is not None


def main_thread(text: str) -> list[Frame]:
    """Calls of the main thread, innermost first; empty where there is none.

    A signal is handled in the main thread, so that is the current one; without a current thread it stands last.
    """
    threads: list[tuple[bool, list[Frame]]] = []
    for line in text.splitlines():
        if found := _THREAD.match(line):
            threads.append((found["current"] != "T", []))
        elif threads and (found := FRAME.match(line)):
            threads[-1][1].append(Frame(*found.groups()))
    current = [frames for is_current, frames in threads if is_current]
    return (current or [frames for _, frames in threads] or [[]])[-1]


def waits_for_peers(frames: Sequence[Frame]) -> bool:
    """Whether the innermost calls are a collective: such a rank holds nobody up."""
    return any(part in frame.file for frame in frames[:_DEPTH] for part in _COLLECTIVES)


def own_frame(frames: Sequence[Frame]) -> Frame | None:
    """The innermost call outside of libraries, or the innermost one at all."""
    return next((frame for frame in frames if not frame.foreign), frames[0] if frames else None)
