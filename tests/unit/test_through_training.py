"""What a report shows of a training's way: quantiles of histograms, and which steps' samples."""

import json
from pathlib import Path

import numpy as np
import pytest

from configs.errors import DamageError
from configs.folder import RunFolder
from pipelines.report import write_report
from pipelines.series import SHARES, quantiles
from pipelines.through_training import BYTES, STEPS, shown_through, spread_over, weight_charts
from tests.reported import ESCAPED, NASTY, complete, report_of, step, write_events


def test_quantiles_of_a_histogram_are_those_of_its_numbers_to_within_a_bin():
    numbers = np.concatenate(
        [np.random.default_rng(0).normal(-3, 0.2, 4000), np.random.default_rng(1).normal(3, 1, 6000)]
    )
    counts, edges = np.histogram(numbers, 64)
    found = quantiles(edges.tolist(), counts.tolist())
    np.testing.assert_allclose(found, np.quantile(numbers, SHARES), atol=edges[1] - edges[0])


def test_what_lies_in_one_bin_is_spread_over_it():
    assert quantiles([0.0, 1.0, 2.0, 3.0], [0, 100, 0]) == pytest.approx([1 + share for share in SHARES])


@pytest.mark.parametrize(("count", "chosen"), [(1, [9]), (2, [0, 9]), (4, [0, 3, 6, 9]), (20, list(range(10)))])
def test_steps_are_chosen_evenly_with_both_ends(count: int, chosen: list[int]):
    assert spread_over(list(range(10)), count) == chosen


def with_samples(path: Path, sizes: list[int]) -> RunFolder:
    folder = complete(path)
    events = [{"event": "start", "step": 0}]
    for number, size in enumerate(sizes, 1):
        file = folder.training_samples(number)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps([{"prompt": f"ACT {NASTY}", "text": "x" * size}]))
        events += [step(number, 2.0), {"event": "samples", "step": number, "file": "anything"}]
    write_events(folder, *events, {"event": "finish", "status": "completed"})
    return folder


def test_as_many_steps_are_shown_as_the_page_takes(tmp_path: Path):
    many = with_samples(tmp_path / "many", [10] * 40)
    through = shown_through(many, range(1, 41))
    assert through
    assert [through.steps[0][0], through.steps[-1][0], len(through.steps)] == [1, 40, STEPS]
    assert through.told.startswith("Samples of 12 of 40 validations")
    large = shown_through(with_samples(tmp_path / "large", [BYTES // 3] * 9), range(1, 10))
    assert large
    assert [number for number, _ in large.steps] == [1, 9]
    huge = with_samples(tmp_path / "huge", [2 * BYTES])
    through = shown_through(huge, [1])
    assert through
    assert (list(through.steps), through.told[:12]) == ([], "Samples of 0")
    assert "Samples of 0 of 1 validations" in report_of(huge)
    assert huge.report.stat().st_size < 5_000_000


def test_samples_on_the_page_are_escaped_and_files_that_are_gone_are_left_out(tmp_path: Path):
    folder = with_samples(tmp_path / "run", [5, 5, 5])
    folder.training_samples(2).unlink()
    page = report_of(folder)
    assert "Samples through training" in page
    assert NASTY not in page
    assert page.count(f"ACT {ESCAPED}") >= 2
    assert "<h3>Step 1</h3>" in page
    assert "<h3>Step 2</h3>" not in page
    folder.training_samples(1).unlink()
    folder.training_samples(3).unlink()
    assert "They are gone" in report_of(folder)


def test_a_damaged_file_is_named(tmp_path: Path):
    folder = with_samples(tmp_path / "run", [5])
    folder.training_samples(1).write_text("[{")
    with pytest.raises(DamageError, match=r"step-00000001\.json cannot be read"):
        write_report(folder)


def test_weights_have_a_chart_from_two_steps_on():
    rows = {10: tuple(float(n) for n in range(7)), 20: tuple(2.0 * n for n in range(7))}
    (chart,) = weight_charts({"weights/model": rows, "weights/one": {1: rows[10]}})
    assert chart.title == "Weights of model"
    assert "at the last, 20: 0 to 12, nine tenths from 2 to 10, median 6." in chart.caption
