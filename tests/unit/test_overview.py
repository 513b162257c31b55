"""The overview: what it says of several runs, finished or not, and which of them it compares."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.folder import RunFolder
from configs.load import dump, load
from configs.stages import step_folder
from pipelines.entries import read_entry
from pipelines.overview import build_overview, find_runs, main, thumbnail
from pipelines.seeds import shared_name
from tests.reported import NASTY, crossed, evaluated, metric, without_library

CONFIG = Path(__file__).parents[2] / "configs" / "mnist.yaml"
SHARE = {"better": "higher", "unit": "share"}


def trained(
    root: Path, name: str, *overrides: str, accuracy: float = 0.9, protocol: str = "p", gflops: float = 1.0
) -> RunFolder:
    """A run folder with an evaluation of that accuracy."""
    folder = RunFolder(root / name)
    folder.evaluation.mkdir(parents=True)
    folder.config.write_text(dump(load([str(CONFIG), f"name={name}", *overrides])))
    checkpoint = step_folder(folder.train, 3)
    checkpoint.mkdir(parents=True)
    (checkpoint / "complete.json").write_text(json.dumps({"step": 3, "data": "d" * 64, "digest": "e" * 64}))
    metrics = [
        metric("test/accuracy", accuracy, protocol=protocol, **SHARE),
        metric("baseline/majority/accuracy", 0.1, protocol=protocol, **SHARE),
    ]
    evaluated(folder, *metrics, protocols={protocol: {}})
    cost: dict[str, Any] = {"parameters": 1234, "flops_per_sample": gflops * 1e9, "device": "abacus", "threads": 1}
    time = {"median": 2.0, "p99": 3.0, "passes": 5}
    folder.cost.write_text(json.dumps(cost | {"latency_ms": {"1": time}, "samples_per_s": {"1": 500.0}}))
    folder.samples.write_text(json.dumps([{"picture": "data:image/png;base64,AAAA", "label": NASTY}]))
    return folder


def page_of(*folders: RunFolder) -> str:
    return without_library(build_overview([read_entry(folder) for folder in folders], folders[0].path.parent))


def test_every_run_has_a_card_with_its_numbers_its_state_and_a_link(tmp_path: Path):
    done, begun = trained(tmp_path, "done"), RunFolder(tmp_path / "begun")
    done.report.write_text("")
    begun.path.mkdir()
    begun.config.write_text(dump(load([str(CONFIG), "name=begun"])))
    page = page_of(done, begun)
    assert '<a href="done/report.html">done</a>' in page
    assert "<dt>test/accuracy</dt><dd>0.900 ± 0.010</dd>" in page
    assert "best baseline: majority" in page
    assert page.count('<img src="data:image/png;base64,AAAA"') == 1
    assert "<h3>begun</h3>" in page
    assert "nothing is prepared yet" in page
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", page)


def test_a_run_that_cannot_be_read_is_listed_with_the_reason(tmp_path: Path):
    sound, torn = trained(tmp_path, "sound"), trained(tmp_path, "torn")
    torn.metrics.write_text('{"checkpoint"')
    page = page_of(sound, torn)
    assert "cannot be read" in page
    assert "torn/evaluation/metrics.json" in page


def test_runs_under_one_protocol_share_a_table_with_the_best_in_bold_and_others_have_none(tmp_path: Path):
    folders = [trained(tmp_path, "one", accuracy=0.8), trained(tmp_path, "two")]
    other = trained(tmp_path, "other", accuracy=0.99, protocol="q")
    page = page_of(*folders, other)
    table = page[page.index('<h2 id="tables"') : page.index('<h2 id="results"')]
    assert "<strong>0.900 ± 0.010</strong>" in table
    assert "0.800 ± 0.010" in table
    assert "baseline/majority" in table
    assert "0.990" not in table


def test_quality_is_drawn_against_gflops_and_latency_and_told_in_a_table(tmp_path: Path):
    page = page_of(trained(tmp_path, "small", gflops=0.5), trained(tmp_path, "large", gflops=50.0))
    assert page.count("Accuracy against cost</h3>") == 1
    assert "least small, 0.900 ± 0.010 at 0.5 GFLOPs; most large, 0.900 ± 0.010 at 50 GFLOPs" in page
    assert "1,234" in page
    assert "abacus" in page


def test_a_single_run_is_compared_with_nothing(tmp_path: Path):
    page = page_of(trained(tmp_path, "alone"))
    assert 'id="runs"' in page
    assert not any(f'id="{section}"' in page for section in ("seeds", "tables"))
    assert "against cost</h3>" not in page
    assert "abacus" in page


def test_each_evaluated_run_has_all_its_metrics_beside_its_baselines(tmp_path: Path):
    begun = RunFolder(tmp_path / "begun")
    begun.path.mkdir()
    begun.config.write_text(dump(load([str(CONFIG), "name=begun"])))
    page = page_of(trained(tmp_path, "one"), trained(tmp_path, "other", protocol="q"), begun)
    results = page[page.index('<h2 id="results"') :]
    assert "<summary><strong>one</strong>: The model&#39;s accuracy is 0.9" in results
    assert results.count('<th scope="col">baseline/majority</th>') == 2
    assert results.count("Accuracy: model and baselines</h3>") == 2
    assert "begun" not in results


def test_a_cross_validation_is_shown_with_its_folds(tmp_path: Path):
    folds = crossed(tmp_path / "folds")
    folds.fold("0-1").report.write_text("")
    page = page_of(trained(tmp_path, "one"), folds)
    assert "completed: 3 folds trained and evaluated" in page
    assert '<a href="folds/folds/0-1/report.html">0-1</a>' in page
    assert "<dt>cv/bits_per_byte</dt>" in page


def test_a_run_whose_first_number_is_undefined_is_listed_and_compared_with_nothing(tmp_path: Path):
    sound, lost = trained(tmp_path, "sound"), trained(tmp_path, "lost")
    gone = metric("test/accuracy", None, stderr=None, undefined="logits are no numbers", **SHARE)
    evaluated(lost, gone, protocols=json.loads(lost.metrics.read_text())["protocols"])
    page = page_of(sound, lost)
    assert "The model&#39;s accuracy is undefined: logits are no numbers." in page
    assert 'id="tables"' not in page


def test_runs_that_differ_in_seed_alone_become_a_mean_with_its_spread(tmp_path: Path):
    ours = [trained(tmp_path, f"wide-{seed}", f"seed={seed}", accuracy=0.8 + 0.01 * seed) for seed in range(3)]
    model = "task.model={kind: lenet, width_factor: 3}"
    theirs = [trained(tmp_path, f"slim-{seed}", f"seed={seed}", model, accuracy=0.6 + 0.02 * seed) for seed in range(3)]
    page = page_of(*ours, *theirs)
    assert "Accuracy: wide 0.810 ± 0.010 against slim 0.620 ± 0.020, 3 seeds each." in page
    assert "0.8, 0.81, 0.82" in page


def test_a_difference_that_seeds_explain_is_called_so(tmp_path: Path):
    ours = [trained(tmp_path, f"a-{seed}", f"seed={seed}", accuracy=0.8 + 0.1 * seed) for seed in range(2)]
    model = "task.model={kind: lenet, width_factor: 3}"
    theirs = [trained(tmp_path, f"b-{seed}", f"seed={seed}", model, accuracy=0.81 + 0.1 * seed) for seed in range(2)]
    assert "2 seeds each; the difference is within two standard errors." in page_of(*ours, *theirs)


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (["genre-0", "genre-1"], "genre"),
        (["genre", "genre-2"], "genre"),
        (["a-seed1", "a-seed2"], "a"),
        (["x", "y"], "x"),
    ],
)
def test_a_group_is_called_what_its_names_have_in_common(names: list[str], shared: str):
    assert shared_name(names) == shared


def test_text_from_runs_is_escaped_and_shortened(tmp_path: Path):
    folder = trained(tmp_path, "texts")
    folder.samples.write_text(json.dumps([{"prompt": NASTY, "text": "word " * 200}]))
    page = page_of(folder)
    assert NASTY not in page
    assert "…</pre>" in page
    assert thumbnail([{"label": "sad", "passage": "It was a dark and stormy night."}]) == {
        "text": "It was a dark and stormy night."
    }


def test_a_card_shows_the_pictures_of_the_first_samples():
    samples = [{"picture": f"data:image/png;base64,{number:04d}", "class": str(number)} for number in range(12)]
    assert thumbnail(samples) == {"pictures": [f"data:image/png;base64,{number:04d}" for number in range(10)]}


def test_the_command_writes_a_page_over_all_runs_or_those_that_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    trained(tmp_path, "one")
    trained(tmp_path, "two")
    assert main(["--runs", str(tmp_path)]) == 0
    page = tmp_path / "overview.html"
    assert capsys.readouterr().out.strip() == str(page.resolve())
    assert "2 runs" in page.read_text()
    assert main(["two", "--runs", str(tmp_path), "-o", str(tmp_path / "other.html")]) == 0
    assert "1 run<" in (tmp_path / "other.html").read_text()


def test_folders_without_a_run_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="holds no run"):
        find_runs([], tmp_path)
    trained(tmp_path, "one")
    with pytest.raises(UserError, match=r"absent: no run is there .*; in .* there are: one$"):
        find_runs(["absent"], tmp_path)


def test_one_run_twice_is_a_mistake_and_two_runs_of_one_name_are_not(tmp_path: Path):
    first, second = trained(tmp_path / "mine", "one"), trained(tmp_path / "theirs", "one")
    with pytest.raises(UserError, match="is named twice"):
        find_runs(["one", str(first.path)], tmp_path / "mine")
    assert find_runs(["one", str(second.path)], tmp_path / "mine") == [first, second]
    assert page_of(first, second).count("Accuracy: model and baselines") == 2


def test_a_page_that_could_not_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    trained(tmp_path, "one")
    for output in (tmp_path / "absent/page.html", tmp_path):
        assert main(["--runs", str(tmp_path), "-o", str(output)]) == 2
        assert f"--output {output}: name a file in a folder that is there" in capsys.readouterr().err


def test_metrics_that_somebody_edited_are_shown_by_no_page(tmp_path: Path):
    folder = trained(tmp_path, "one")
    assert "0.9" in page_of(folder)
    record = json.loads(folder.metrics.read_text())
    folder.metrics.write_text(json.dumps(record | {"metrics": record["metrics"][:1]}))
    assert "its digest is not that of its content; evaluate again" in page_of(folder)
