"""Where a person sees the lines of a run: progress drawn in place on a terminal, plain lines elsewhere."""

import os
import re
import sys
import threading
import unicodedata
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.lines import Line

PROGRESS_S = "TRAINWORKS_PROGRESS_S"
"""Tells stages how often to say how far they are"""
ERASE = "\r\x1b[K"
FAINT, PLAIN = "\x1b[2m", "\x1b[22m"
STAGE = 9
"""Columns of a stage's name"""
SHARE, COUNT = re.compile(r"\d+%"), re.compile(r"^(\d+/\d+) \w+$")
COLUMNS = 80
"""Of a terminal that does not say"""


class Screen:
    """Takes lines from any thread. On a terminal the newest progress stays in the last row, and is gone at the end."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.coloured = not os.environ.get("NO_COLOR")
        os.environ.setdefault(PROGRESS_S, "1" if self.terminal else "10")
        self._drawn: Line | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def show(self, line: "Line") -> None:
        """A line that stays goes above the progress, which is drawn again while it is of the same stage."""
        with self._lock:
            told, erase = f"{line.stage:{STAGE}}{line.text}", ERASE if self._drawn else ""
            if not self.terminal:
                self._write(f"{told}\n")
            elif line.mark == "~":
                self._write(erase + self._progress(line))
                self._drawn = line
            else:
                below = self._drawn if self._drawn and self._drawn.stage == line.stage else None
                self._write(f"{erase}{told}\n{self._progress(below) if below else ''}")
                self._drawn = below

    def close(self) -> None:
        """Leave the terminal at the beginning of an empty row."""
        with self._lock:
            if self._drawn:
                self._write(ERASE)
                self._drawn = None

    def _progress(self, line: "Line") -> str:
        text = fitted(f"{line.stage:{STAGE}}{line.text}", self._columns() - 1)  # in the last column some terminals wrap
        return f"{FAINT}{text}{PLAIN}" if self.coloured else text

    def _columns(self) -> int:
        """Asked for each line: a window changes its size."""
        try:
            return os.get_terminal_size(sys.stdout.fileno()).columns or COLUMNS
        except (OSError, ValueError):
            return COLUMNS

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def fitted(text: str, columns: int) -> str:
    """A text in one row, without what would move the cursor: figures, two spaces apart, go where there is no room.

    First the share done and the unit, for `120/1000` says as much, then those at the end; one alone is cut.
    """
    text = "".join(each if each.isprintable() else " " for each in text)
    stage, (first, *more) = text[:STAGE], text[STAGE:].split("  ")
    fewer = [each for each in more if not SHARE.fullmatch(each)]
    shorter = [[COUNT.sub(r"\1", first), *fewer[:count]] for count in range(len(fewer), -1, -1)]
    rows = [stage + "  ".join(each) for each in ([first, *more], [first, *fewer], *shorter)]
    text = next((row for row in rows if cells(row) <= columns), rows[-1])
    while cells(text) > columns:
        text = text[:-1]
    return text


def cells(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )
