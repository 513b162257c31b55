"""The screen: progress in one row of a terminal of any width, plain lines elsewhere, and a clean row at the end."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from configs.lines import LASTING, TRANSIENT, Line
from pipelines.screen import Screen, cells, fitted

PROGRESS = "120/1000 steps  12%  compute  7.5k samples/s  loss 3.210  8:48 left  goodput 83%"
DRIVEN = """
import sys
from configs.lines import Line
from pipelines.screen import Screen
with Screen() as screen:
    for word in sys.stdin:
        if word.startswith("raise"):
            raise KeyboardInterrupt
        mark, text = word.rstrip("\\n").split(" ", 1)
        screen.show(Line("train", mark, text))
print("$", end="", flush=True)
"""


class Terminal:
    """A pseudo-terminal with a screen in it, driven line by line."""

    def __init__(self, columns: int, **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(columns)
        known = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVEN],
            env=known | {"TERM": "xterm"} | environment,
            stdin=subprocess.PIPE,
            stdout=slave,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        os.close(slave)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def tell(self, line: str) -> str:
        """What is drawn for a line."""
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> str:
        """What is drawn until nothing comes for a moment."""
        found, deadline, wait = b"", time.monotonic() + 20, 10.0
        while time.monotonic() < deadline and select.select([self.master], [], [], wait)[0]:
            try:
                chunk = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                break
            found, wait = found + chunk, 0.1
        return found.decode().replace("\r\n", "\n")

    def end(self) -> str:
        assert self.process.stdin
        self.process.stdin.close()
        return self.read()


@contextlib.contextmanager
def terminal(columns: int, **environment: str) -> Iterator[Terminal]:
    made = Terminal(columns, **environment)
    try:
        yield made
    finally:
        assert made.process.stdin
        made.process.stdin.close()
        made.process.kill()
        made.process.wait()
        os.close(made.master)


def test_progress_is_drawn_in_one_row_below_the_lines_that_stay_and_is_gone_at_the_end():
    with terminal(120, NO_COLOR="1") as screen:
        assert screen.tell(f"~ {PROGRESS}") == f"train    {PROGRESS}"
        assert screen.tell("~ 2/2 steps") == "\r\x1b[Ktrain    2/2 steps"
        assert screen.tell("| step 2 is saved") == "\r\x1b[Ktrain    step 2 is saved\ntrain    2/2 steps"
        assert screen.end() == "\r\x1b[K$"


def test_a_window_that_changes_its_size_never_wraps_the_row():
    with terminal(120, NO_COLOR="1") as screen:
        for columns in (120, 80, 50, 25, 12, 3, 200):
            screen.resize(columns)
            drawn = screen.tell(f"~ {PROGRESS}").removeprefix("\r\x1b[K")
            assert len(drawn) < columns
            whole = PROGRESS if columns > 100 else PROGRESS.replace("  12%", "").replace(" steps", "")
            assert f"train    {whole}".startswith(drawn)
            assert ("goodput" in drawn) == (columns >= 80)
        assert drawn.endswith("goodput 83%")


def test_colour_only_where_it_is_wanted():
    with terminal(80) as screen:
        assert screen.tell("~ 1/2 steps") == "\x1b[2mtrain    1/2 steps\x1b[22m"


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_dumb_terminal_gets_plain_lines(kind: str):
    with terminal(20, TERM=kind or "dumb") as screen:
        assert screen.tell(f"~ {PROGRESS}") == f"train    {PROGRESS}\n"
        assert screen.end() == "$"


def test_an_error_leaves_a_clean_row():
    with terminal(80, NO_COLOR="1") as screen:
        screen.tell("~ 1/2 steps")
        assert screen.tell("raise") == "\r\x1b[K"
        assert screen.process.wait(20) == -signal.SIGINT


def test_plain_output_has_one_line_each(capsys: pytest.CaptureFixture[str]):
    with Screen() as screen:
        screen.show(Line("train", TRANSIENT, PROGRESS * 3))
        screen.show(Line("train", LASTING, "done"))
    assert capsys.readouterr().out == f"train    {PROGRESS * 3}\ntrain    done\n"


def test_progress_of_a_stage_that_is_over_is_not_drawn_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NO_COLOR", "1")
    with Screen() as screen:
        screen.terminal = True
        screen.show(Line("train", TRANSIENT, "1/2 steps"))
        screen.show(Line("evaluate", LASTING, "begun"))
    assert capsys.readouterr().out == "train    1/2 steps\r\x1b[Kevaluate begun\n"


def test_progress_comes_more_often_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRAINWORKS_PROGRESS_S", "7")
    Screen()
    assert os.environ["TRAINWORKS_PROGRESS_S"] == "7"


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("train    1/2 steps  50%  loss 3", 40, "train    1/2 steps  50%  loss 3"),
        ("train    1/2 steps  50%  loss 3", 30, "train    1/2 steps  loss 3"),
        ("train    1/2 steps  50%  loss 3", 20, "train    1/2  loss 3"),
        ("train    1/2 steps  50%  loss 3", 18, "train    1/2"),
        ("train    50%", 10, "train    5"),
        ("train    1/2 steps  50%  loss 3", 10, "train    1"),
        ("train    日本語日本語", 13, "train    日本"),
        ("a\x1b[2Jb\nc\td", 80, "a [2Jb c d"),
        ("x" * 100, 0, ""),
    ],
)
def test_what_has_no_room_is_left_out_figure_by_figure(text: str, columns: int, shown: str):
    assert fitted(text, columns) == shown
    assert cells(shown) <= max(columns, 0)
