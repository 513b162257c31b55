"""Lines for a person: rate, figures and time left of long work, found again in any output."""

import time

import pytest

from configs.lines import Line, parse
from data.progress import Progress, clock, rate, say
from trainer.heartbeat import NullPulse, ToldPulse


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (754, "12:34"), (3599.9, "1:00:00"), (12345, "3:25:45")],
)
def test_a_clock_reads_as_people_say_it(seconds: float, text: str):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("per_s", "text"),
    [
        (0, "0.0 tokens/s"),
        (7.25, "7.2 tokens/s"),
        (7512.3, "7.5k tokens/s"),
        (2e6, "2.0M tokens/s"),
        (3e9, "3.0G tokens/s"),
    ],
)
def test_a_rate_has_a_letter_for_its_size(per_s: float, text: str):
    assert rate(per_s, "tokens") == text


def test_a_line_that_stays_is_marked(capsys: pytest.CaptureFixture[str]):
    say("prepare", "done")
    assert capsys.readouterr().out == "prepare | done\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train | step 3", Line("train", "|", "step 3")),
        ("\x1b[94m[KFP] INFO\x1b[0m evaluate ~ 1/2  | x", Line("evaluate", "~", "1/2  | x")),
        ('prepare ! {"code": 2}', Line("prepare", "!", '{"code": 2}')),
        ("train", None),
        ("retrain | step", None),
        ("train / step", None),
        ("", None),
    ],
)
def test_a_line_is_found_in_what_kfp_puts_around_it(text: str, line: Line | None):
    assert parse(text) == line


def test_a_line_has_the_share_done_the_figures_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress("train", 1000, "steps", start=100)
    assert not progress.due()
    now = 112.0
    assert progress.due()
    progress.show(120, rate(progress.per_s(20), "steps"), "loss 3.210")
    assert capsys.readouterr().out == "train ~ 120/1000 steps  12%  1.7 steps/s  loss 3.210  8:48 left\n"
    assert not progress.due()


def test_phase_and_goodput_are_told_where_they_are_known_and_again_in_another_phase(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress("train", 1000, "steps")
    pulse = ToldPulse(NullPulse(), progress)
    pulse.beat("compute", 50)
    now = 150.0
    pulse.alive()  # steps tell of themselves
    progress.show(50, "loss 3.210", phase="compute", goodput=0.834)
    pulse.beat("validate", 51)
    pulse.alive()
    now = 161.0
    pulse.alive()
    assert capsys.readouterr().out.splitlines() == [
        "train ~ 50/1000 steps  5%  compute  loss 3.210  15:50 left  goodput 83%",
        "train ~ 51/1000 steps  5%  validate  loss 3.210  18:55 left  goodput 83%",
    ]


def test_nothing_done_yet_has_no_time_left(capsys: pytest.CaptureFixture[str]):
    Progress("train", 0, "steps").show(0)
    assert capsys.readouterr().out == "train ~ 0/0 steps  0%  starting\n"


def test_an_invisible_one_is_never_due(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRAINWORKS_PROGRESS_S", "0")
    assert Progress("train", 1, "steps").due()
    assert not Progress("train", 1, "steps", visible=False).due()
