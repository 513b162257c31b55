"""The report: what it says of a run, in every state that a run can be in."""

import json
import math
import re
from pathlib import Path

import pytest

from configs.folder import RunFolder, digest
from configs.load import load
from configs.stages import step_folder
from pipelines.readout import Scores
from pipelines.report import write_report
from pipelines.scores import verdict
from pipelines.summary import headline
from tests.reported import (
    CONFIG,
    ESCAPED,
    NASTY,
    complete,
    evaluated,
    metric,
    prepared,
    span,
    step,
    without_library,
    write_events,
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = complete(tmp_path_factory.mktemp("runs") / "<img src=x onerror=alert(1)>")
    write_report(folder)
    return folder.report.read_text()


def test_text_from_data_and_names_is_escaped(page: str) -> None:
    assert NASTY not in page
    assert "<img src=x" not in page
    assert "<h1>&lt;img src=x onerror=alert(1)&gt;</h1>" in page
    assert f"plays {ESCAPED}" in page
    assert f"test {ESCAPED}" in page
    assert f"<b>ACT I {ESCAPED}</b>\n  two  spaces {ESCAPED}</pre>" in page


def test_page_loads_nothing_from_elsewhere(page: str) -> None:
    assert "/* BEGIN bokeh.min.js */" in page
    assert "default-src 'none'" in page
    rest = without_library(page)
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", rest)
    assert "@import" not in rest
    assert "url(" not in rest
    assert set(re.findall(r'href="([^"]+)"', rest)) >= {"#charts", "#metrics", "#data"}
    assert len(page.encode()) < 5_000_000


def test_complete_run_says_its_result_first(page: str) -> None:
    sentence = "The model needs 1.98 bits per byte; the trigram baseline needs 2.11: 6 % better."
    assert page.index(sentence) < page.index("<h2")
    assert "completed: prepared, trained and evaluated" in page
    assert "2,000" not in without_library(page)  # nothing was thinned


def test_chart_has_its_values_in_words(page: str) -> None:
    caption = "train: first 4 (step 1), last 3 (step 3), lowest 3 (step 3), highest 4 (step 1). 1 not a number"
    assert caption in page
    assert "not a number at some steps: train/loss" in page
    assert "model 1.980 ± 0.010; trigram 2.110 ± 0.010" in page


def test_chain_follows_the_digests(page: str) -> None:
    evaluation = {"metrics": [metric("test/bits_per_byte", 1.98), metric("baseline/trigram/bits_per_byte", 2.11)]}
    own = digest(evaluation | {"protocols": {"p": {"split": f"test {NASTY}"}}})
    places = [page.rindex(text) for text in ("a" * 64, "d" * 64, "e" * 64, own)]
    assert places == sorted(places)
    assert "trained on the one above" in page
    assert "taken from the one above" in page


def test_tables_have_captions_and_scopes(page: str) -> None:
    rest = without_library(page)
    assert rest.count("<table") == rest.count("<caption>") > 0
    assert '<th scope="col">baseline/trigram</th>' in rest
    assert '<th scope="row">bits per byte<small>bits/byte, lower is better</small></th>' in rest
    assert "<strong>1.980 ± 0.010</strong>" in rest


def test_prepared_run_names_what_is_missing(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run")
    write_report(folder)
    page = folder.report.read_text()
    assert "prepared; not trained yet" in page
    assert "has not been trained; `trainworks train" in page
    assert "has not been evaluated" in page
    assert "123,456" in page
    assert "7 documents" in page
    assert "BEGIN bokeh" not in page


def test_trained_run_without_an_end_has_charts_and_no_metrics(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run")
    write_events(folder, {"event": "start", "step": 0}, step(1, 4.0), step(2, math.inf))
    write_report(folder)
    page = folder.report.read_text()
    assert "in training, or ended without a word" in page
    assert "has not been evaluated" in page
    assert "train: first 4 (step 1)" in page


def test_classification_run_shows_pictures_and_counts_images(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    manifest = json.loads(folder.manifest.read_text())
    counts = {"documents": 5, "bytes": 10, "samples": 7, "tokens": 0, "classes": {"cat": 3, "dog": 4}, "shards": []}
    images = {"height": 28, "width": 30, "channels": 1, "mean": [0.13066], "std": [0.3081]}
    manifest |= {"kind": "images", "tokenizer": None, "images": images, "classes": ["cat", NASTY], "block_tokens": 0}
    folder.manifest.write_text(json.dumps(manifest | {"splits": {"train": counts}}))
    shape = {"better": "higher", "unit": "share"}
    metrics = [metric("test/loss", 0.1), metric("test/accuracy", 0.97, **shape)]
    metrics.append(metric("baseline/majority/accuracy", 0.12, **shape))
    evaluated(folder, *metrics)
    mistake = {"picture": "data:image/png;base64,AAAA", "label": NASTY, "taken for": "dog", "image": 17}
    folder.samples.write_text(json.dumps([mistake]))
    write_report(folder)
    page = without_library(folder.report.read_text())
    assert "accuracy is 0.97; the majority baseline&#39;s is 0.12: 708 % better." in page
    assert '<img src="data:image/png;base64,AAAA" alt="Sample 1">' in page
    assert f"label: {ESCAPED}<br>" in page
    assert "taken for: dog" in page
    assert "prompt is underlined" not in page
    assert "<dt>mean</dt><dd>0.1307</dd>" in page
    assert f"<dt>classes</dt><dd>cat, {ESCAPED}</dd>" in page
    assert "7 images" in page
    head = page[page.index("What each split holds") :].split("</thead>")[0]
    assert re.findall(r'scope="col">([^<]+)', head) == ["split", "documents", "samples", "bytes", "shards"]
    assert NASTY not in page


def test_what_is_drawn_and_what_is_scored_are_both_shown_and_the_recognised_share_comes_first(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    share = {"better": "higher", "unit": "share", "protocol": "judged"}
    metrics = [
        metric("samples/class_accuracy", 0.93, **share),
        metric("baseline/real/class_accuracy", 0.97, **share),
        metric("test/loss", 0.05, unit="squared error"),
    ]
    scores = Scores.of(metrics)
    assert scores.headlines == ["class_accuracy", "loss"]
    assert verdict(scores) == "The model's class accuracy is 0.93; the real baseline's is 0.97: 4 % worse."
    evaluated(folder, *metrics)
    write_report(folder)
    page = without_library(folder.report.read_text())
    assert "<dt>samples/class_accuracy</dt>" in page
    assert "<dt>test/loss</dt>" in page


def test_cost_is_a_table_of_its_own(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    write_report(folder)
    assert "The evaluation measured no cost." in folder.report.read_text()
    times = {"1": {"median": 2.5, "p99": 4.0, "passes": 100}, "32": {"median": 40.0, "p99": 41.0, "passes": 25}}
    cost = {"parameters": 61706, "flops_per_sample": 833_040_000, "latency_ms": times, "threads": 2}
    cost |= {"activation_bytes": {"1": 2**20, "32": 32 * 2**20}, "memory_by": "tensors"}
    folder.cost.write_text(json.dumps(cost | {"samples_per_s": {"1": 400.0, "32": 800.0}, "device": f"CPU {NASTY}"}))
    write_report(folder)
    page = without_library(folder.report.read_text())
    assert "61,706 parameters; 0.833 GFLOPs" in page
    assert re.search(r'row">32</th>\s*<td>40</td>\s*<td>41</td>\s*<td>800</td>\s*<td>32</td>\s*<td>25</td>', page)
    assert "Memory is the most bytes that tensors made in the pass held at once" in page
    assert "Bits per byte 1.980 ± 0.010 at 2.5 ms and 0.833 GFLOPs a sample." in page
    assert NASTY not in page


def test_samples_without_a_prompt_are_listed_by_their_fields(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    folder.samples.write_text(json.dumps([{"passage": "Now is the winter", "label": "history"}]))
    write_report(folder)
    page = without_library(folder.report.read_text())
    assert "<dt>passage</dt><dd>Now is the winter</dd>" in page
    assert "prompt is underlined" not in page


def test_empty_folder_has_a_page(tmp_path: Path) -> None:
    write_report(RunFolder(tmp_path))
    assert "nothing is prepared yet" in (tmp_path / "report.html").read_text()


def test_metrics_of_an_older_checkpoint_are_called_out(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    folder.events.unlink()  # so that no chart has to be drawn
    later = step_folder(folder.train, 9)
    later.mkdir()
    (later / "complete.json").write_text(json.dumps({"step": 9, "data": "f" * 64, "digest": "9" * 64}))
    write_report(folder)
    page = folder.report.read_text()
    assert "not taken from the checkpoint that is the result" in page
    assert "taken from another one: eeeeeeeeeeee…" in page
    assert "trained on another one: ffffffffffff…" in page


def test_the_time_of_a_training_is_a_bar_and_a_table_with_its_restarts_and_lost_steps(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run")
    begin, again = {"event": "start", "step": 0}, {"event": "start", "step": 1, "since_launch_s": 0.25}
    write_events(  # a second between two events
        folder, begin, step(1, 4.0), *span(1, compute=1.0), step(2, 3.0), *span(2, compute=1.5, data=0.5), again,
        step(2, 3.0), *span(2, compute=1.0, save=0.5),
    )  # fmt: skip
    write_report(folder)
    page = without_library(folder.report.read_text())
    assert "<dt>Goodput</dt><dd>22.2 % of 9 s computed steps that count; steps done again: 1</dd>" in page
    section = page[page.index('<h2 id="time">') :]
    assert re.search(r'row">compute</th>\s*<td>2.0</td>\s*<td>22.2</td>', section)
    assert re.search(r'row">lost</th>\s*<td>2.0</td>', section)
    assert re.search(r'row">restart</th>\s*<td>0.8</td>', section)
    assert 'row">stopped' not in section
    assert "Training, from its launch to its last event" in section


def test_what_ran_away_is_listed_with_what_was_done_and_the_samples_that_were_passed_over(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run")
    batch = load([str(CONFIG)]).train.global_batch_samples
    gone = {"event": "anomaly", "step": 2, "reason": f"train/loss is inf {NASTY}", "action": "rollback"}
    write_events(
        folder,
        {"event": "start", "step": 0},
        step(1, 4.0) | {"position": batch},
        gone,
        step(2, 3.9) | {"position": 3 * batch},
    )
    write_report(folder)
    page = without_library(folder.report.read_text())
    assert f"<dt>Anomalies</dt><dd>1, at step 2; {batch} samples passed over</dd>" in page
    assert re.search(rf'row">2</th>\s*<td>rollback</td>\s*<td>train/loss is inf {re.escape(ESCAPED)}</td>', page)
    assert NASTY not in page


def test_a_log_without_spans_says_so_and_makes_a_report_all_the_same(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    write_report(folder)
    page = without_library(folder.report.read_text())
    assert "The log tells no times." in page
    assert "<dt>Goodput</dt>" not in page


def test_the_last_lines_of_a_run_say_how_much_of_its_time_counted(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    assert "training:" not in headline(folder)
    write_events(folder, {"event": "start", "step": 0}, step(1, 4.0), *span(1, compute=1.5))
    assert "\ntraining: 75.0 % of 2 s computed steps that count\nreport: " in headline(folder)
