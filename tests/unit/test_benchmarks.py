"""The benchmark harness, with sides that take no time."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import CASES, main
from benchmarks.harness import BenchmarkError, Case, Pair, Round, run, select
from benchmarks.loop import losses_differ, sentences
from benchmarks.worker import worker

KEYS = ["case", "ours", "peer", "ratio", "goal", "outputs_equal", "unit", "rounds", "versions"]


class Echo:
    """A worker's side that prints where answers go, and fails when its folder says so."""

    def __init__(self, folder: Path) -> None:
        print("noise from a library")
        if folder.name == "broken":
            raise RuntimeError("no such thing as " + folder.name)
        self.folder = folder

    def round(self) -> Round:
        print("more noise")
        return Round(10, 2.0, 1.0, {"folder": str(self.folder)})


def trivial(name: str, *, ours_s: list[float], peer_s: list[float], goal: float = 1.0, **fields: Any) -> Case:
    """A case of 100 units a round whose rounds take what the lists say, the warm-up first."""

    @contextlib.contextmanager
    def pair() -> Iterator[Pair]:
        mine, other = iter(ours_s), iter(peer_s)
        yield Pair(
            lambda: Round(100, next(mine), 1.0, fields.get("ours", [1.0])),
            lambda: Round(100, next(other), 1.0, fields.get("peer", [1.0])),
        )

    def check(ours: Any, peer: Any) -> str | None:
        return None if ours == peer else f"{ours} is not {peer}"

    return Case(name, "nothing", "units/s", goal, ("pytest",), pair, check)


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_ratio_is_the_median_of_the_rounds_and_leaves_the_warm_up_out() -> None:
    case = trivial("a/b", ours_s=[99, 1, 2, 4], peer_s=[1, 2, 2, 2])
    lines: list[str] = []
    result = run(case, 3, lines.append)
    assert (result.ours, result.peer, result.ratio, result.rounds) == (50, 50, 1.0, 3)
    assert result.passed
    assert json.loads(lines[-1]) == json.loads(result.line())
    assert sum(line.startswith("{") for line in lines) == 1
    assert any("range 0.500 to 2.000" in line for line in lines)


def test_json_line_has_exactly_the_promised_keys() -> None:
    record = json.loads(run(trivial("a/b", ours_s=[1, 1], peer_s=[1, 1]), 1, lambda line: None).line())
    assert list(record) == KEYS
    assert record["versions"].keys() == {"python", "pytest"}


def test_sides_take_turns_so_that_neither_is_always_first() -> None:
    calls: list[str] = []

    def side(name: str) -> Callable[[], Round]:
        return lambda: calls.append(name) or Round(1, 1.0, 1.0, None)

    case = Case(
        "a/b", "", "units/s", 1.0, (), lambda: contextlib.nullcontext(Pair(side("o"), side("p"))), lambda o, p: None
    )
    run(case, 3, lambda line: None)
    assert "".join(calls) == "op" + "op" + "po" + "op"


def test_unequal_outputs_fail_before_anything_is_timed() -> None:
    result = run(trivial("a/b", ours_s=[1], peer_s=[9], ours=[1.0], peer=[2.0]), 3, lambda line: None)
    assert not result.outputs_equal
    assert not result.passed
    assert (result.ours, result.peer, result.ratio, result.rounds) == (None, None, None, 0)


def test_a_side_that_cannot_run_fails_its_case_and_says_why() -> None:
    def refuse() -> Any:
        raise BenchmarkError("no engine")

    lines: list[str] = []
    result = run(Case("a/b", "", "units/s", 1.0, (), refuse, lambda o, p: None), 1, lines.append)
    assert not result.passed
    assert any("no engine" in line for line in lines)


def test_a_missing_library_is_named() -> None:
    lines: list[str] = []
    case = Case("a/b", "", "units/s", 1.0, ("no-such-library",), contextlib.nullcontext, lambda o, p: None)  # type: ignore[arg-type]
    assert not run(case, 1, lines.append).passed
    assert any("pip install no-such-library" in line for line in lines)


def test_prefix_chooses_cases() -> None:
    cases = [trivial(name, ours_s=[], peer_s=[]) for name in ("data/read", "loop/one", "loop/two")]
    assert [case.name for case in select(cases, "loop/")] == ["loop/one", "loop/two"]
    assert len(select(cases, "")) == 3


def test_exit_code_tells_whether_every_goal_was_met(capsys: pytest.CaptureFixture[str]) -> None:
    good = trivial("good", ours_s=[1, 1], peer_s=[1, 2])
    assert main(["good", "--rounds", "1"], [good]) == 0
    assert last_line(capsys)["ratio"] == 2
    slow = trivial("slow", ours_s=[1, 2], peer_s=[1, 1])
    assert main(["slow", "--rounds", "1"], [slow]) == 1
    assert main(["both", "--rounds", "1"], [slow]) == 2
    assert "slow" in capsys.readouterr().err


def test_list_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(case.name in listed for case in CASES)


def test_losses_must_agree_step_by_step() -> None:
    ours = {"losses": [2.0, 1.0]}
    assert losses_differ(ours, {"losses": [2.0, 1.000009]}, absolute=1e-5) is None
    assert "step 2" in str(losses_differ(ours, {"losses": [2.0, 1.00002]}, absolute=1e-5))
    assert "2 losses" in str(losses_differ(ours, {"losses": [2.0]}, absolute=1e-5))
    assert losses_differ(ours, {"losses": [2.0, float("nan")]}, relative=1e-4)


def test_generated_text_is_the_same_every_time() -> None:
    assert list(sentences(3)) == list(sentences(3))
    assert len(set(sentences(20))) == 20


def test_worker_keeps_what_libraries_print_out_of_the_answers(tmp_path: Path) -> None:
    with worker(f"{__name__}:Echo", tmp_path, tmp_path / "log", threads=1) as ask:
        assert ask() == ask() == Round(10, 2.0, 1.0, {"folder": str(tmp_path)})
    assert "more noise" in (tmp_path / "log").read_text()


def test_worker_that_fails_shows_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchmarkError, match="no such thing as broken"),
        worker(f"{__name__}:Echo", tmp_path / "broken", tmp_path / "log", threads=1),
    ):
        pass
