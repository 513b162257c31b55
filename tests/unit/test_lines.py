"""The lines that a stage prints for its follower."""

import pytest

from configs.lines import FAILURE, LASTING, Line, emit, emit_failure, parse, read_failure


def test_an_emitted_line_is_parsed_back(capsys: pytest.CaptureFixture[str]):
    emit("train", LASTING, "step 3  loss 2.1 | ~ !")
    assert parse(capsys.readouterr().out.rstrip("\n")) == Line("train", LASTING, "step 3  loss 2.1 | ~ !")


def test_a_line_is_found_behind_what_kfp_puts_before_it():
    assert parse("    [KFP] evaluate ~ 3/7 windows") == Line("evaluate", "~", "3/7 windows")


@pytest.mark.parametrize("text", ["", "training | of a model", "constrain | x", "train: | x", "train |"])
def test_other_output_is_not_a_line(text: str):
    assert parse(text) is None


def test_a_failure_keeps_its_code_and_its_reason_of_several_lines(capsys: pytest.CaptureFixture[str]):
    emit_failure("prepare", 2, 'two\nlines and "quotes"')
    written = capsys.readouterr().out
    assert written.count("\n") == 1
    line = parse(written.rstrip("\n"))
    assert line is not None
    assert line.mark == FAILURE
    assert read_failure(line) == (2, 'two\nlines and "quotes"')


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"code": "x", "reason": ""}', '{"reason": "no code"}'])
def test_a_cut_failure_line_still_says_something(text: str):
    assert read_failure(Line("train", FAILURE, text)) == (1, text)
