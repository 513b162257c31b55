"""The page that compares runs, and the command that writes it."""

import re
from pathlib import Path
from typing import Any

import pytest

from configs.folder import RunFolder
from configs.load import dump, load
from pipelines.cli import main
from pipelines.comparison import build_comparison
from pipelines.entries import read_entry
from tests.gated import CONFIG, PROTOCOL, evaluated
from tests.reported import complete, without_library


def losses(*values: float) -> list[dict[str, Any]]:
    steps = [{"event": "step", "step": n, "train/loss": value} for n, value in enumerate(values, 1)]
    return [{"event": "start", "step": 0}, *steps]


def page_of(*folders: RunFolder) -> str:
    return without_library(build_comparison([read_entry(folder) for folder in folders], folders[0].path.parent))


def test_numbers_stand_side_by_side_with_their_differences_and_curves_in_one_chart(tmp_path: Path):
    first = evaluated(tmp_path, "first", value=2.0, units=[2.0] * 50, events=losses(4.0, 3.0))
    other = evaluated(tmp_path, "other", "train.steps=77", value=1.9, units=[1.9] * 50, events=losses(4.0, 2.5))
    page = page_of(first, other)
    row = page[page.index('<th scope="row">test/bits_per_byte') :].split("</tr>")[0]
    cells = re.findall(r"<td>([^<]*)", row)
    assert cells[:2] == ["2.000 ± 0.010", "1.900 ± 0.010"]
    assert "5 %" in cells[2]
    assert "first, train: first 4 (step 1), last 3 (step 2)" in page
    assert "other, train: first 4 (step 1), last 2.5 (step 2)" in page
    assert page.count('aria-label="Legend of Loss"') == 1
    assert len(re.findall(r'data-group="runs"', page)) == 2
    assert re.search(r"<li>train\.steps: 77 here, \d+ there</li>", page)


def test_metrics_under_unlike_protocols_are_not_put_side_by_side(tmp_path: Path):
    first = evaluated(tmp_path, "first")
    other = evaluated(tmp_path, "other", protocol={**PROTOCOL, "stride_tokens": 64})
    page = page_of(first, other)
    assert '<th scope="row">test/bits_per_byte' not in page
    assert "test/bits_per_byte: unlike protocols (other and first): stride_tokens" in page


def test_a_run_that_is_not_evaluated_is_shown_with_its_curves(tmp_path: Path):
    first = evaluated(tmp_path, "first", events=losses(4.0, 3.0))
    other = evaluated(tmp_path, "other", events=losses(4.0, 2.0))
    other.metrics.unlink()
    page = page_of(first, other)
    assert f"{other.path} is not evaluated; run `trainworks evaluate` on it first" in page
    assert 'aria-label="Legend of Loss"' in page


def test_runs_of_one_name_are_called_by_their_paths_and_markup_is_text(tmp_path: Path):
    folders = []
    for side in "ab":
        made = evaluated(tmp_path / side, "run", events=losses(4.0))
        folders.append(RunFolder(made.path.rename(made.path.with_name("<b>run"))))
    page = page_of(*folders)
    assert "<b>run" not in page
    assert f'<th scope="col">{tmp_path}/b/&lt;b&gt;run</th>' in page


def test_the_command_takes_runs_by_name_or_path_and_writes_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    evaluated(tmp_path, "first")
    other = evaluated(tmp_path, "other")
    assert main(["report", "first", str(other.path), "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/comparison.html\n"
    assert (tmp_path / "comparison.html").exists()
    assert main(["report", "first", "other", "--runs", str(tmp_path), "-o", str(tmp_path / "page.html")]) == 0
    assert "Comparison" in (tmp_path / "page.html").read_text()


def test_one_run_writes_its_own_report_again_and_so_does_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = complete(tmp_path / "mine")
    for words in (["mine"], [str(folder.path)], [str(CONFIG), "--name", "mine"]):
        folder.report.unlink(missing_ok=True)
        assert main(["report", *words, "--runs", str(tmp_path)]) == 0
        assert capsys.readouterr().out == f"{folder.report}\n"
        assert "Training report" in folder.report.read_text()
    assert main(["report", "mine", "--runs", str(tmp_path), "-o", str(tmp_path / "page.html")]) == 0
    assert "Training report" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nowhere"], "no run is there"),
        (["mine", "mine"], "is named twice"),
        (["mine", "--name", "other"], "--name names the folder of a configuration"),
        (["mine", "-o", "nowhere/page.html"], "--output"),
        (["absent.yaml"], "absent.yaml"),
        (["train.steps=3"], "no configuration file"),
    ],
)
def test_a_mistake_in_what_was_asked_is_one_line_and_exit_code_2(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = RunFolder(tmp_path / "mine")
    folder.path.mkdir()
    folder.config.write_text(dump(load([str(CONFIG)])))
    assert main(["report", *words, "--runs", str(tmp_path)]) == 2
    assert reason in capsys.readouterr().err
