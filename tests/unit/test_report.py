"""The report: what it says of a run, in every state that a run can be in."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import DamageError
from configs.folder import RunFolder, digest, write_json
from configs.load import dump, load
from configs.stages import step_folder
from pipelines.curves import curve_charts, describe, read_curve, smooth, thin
from pipelines.gate.verdicts import Judgement, Verdict
from pipelines.history import read_history
from pipelines.report import write_report
from pipelines.scores import Scores, show, verdict
from pipelines.summary import headline

CONFIG = Path(__file__).parents[2] / "configs" / "demo-lm.yaml"
NASTY = "<script>alert(1)</script>"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


def metric(name: str, value: float | None, **changes: Any) -> dict[str, Any]:
    shape = {"stderr": 0.01, "n": 1000, "unit": "bits/byte", "better": "lower", "protocol": "p"}
    return {"name": name, "value": value} | shape | changes


def prepared(path: Path, *, description: str = "plays") -> RunFolder:
    """A run folder after the first stage."""
    folder = RunFolder(path)
    folder.data.mkdir(parents=True)
    folder.config.write_text(dump(load([str(CONFIG)])))
    counts = {"documents": 5, "tokens": 123456, "bytes": 400000, "words": 70000, "samples": 999}
    shard = {"name": "train-0.tar", "blake3": "5" * 64, "bytes": 1, "samples": 999, "index_blake3": "6" * 64}
    manifest = {
        "schema_version": 2,
        "digest": "d" * 64,
        "config": "c" * 64,
        "sources": [
            {"description": description, "files": 2, "bytes": 10, "documents": 6, "digest": "a" * 64, "part": ""}
        ],
        "tokenizer": {"file": "tokenizer.json", "sha256": "b" * 64, "vocabulary_size": 1024},
        "splits": {"train": counts | {"shards": [shard]}},
        "dropped": {"duplicate": 7},
    }
    folder.manifest.write_text(json.dumps(manifest))
    return folder


def write_events(folder: RunFolder, *events: dict[str, Any], tail: str = "") -> None:
    folder.train.mkdir(exist_ok=True)
    lines = [json.dumps({"time": 1_800_000_000.0 + number} | event) for number, event in enumerate(events)]
    folder.events.write_text("".join(line + "\n" for line in lines) + tail)


def step(number: int, loss: float) -> dict[str, Any]:
    return {"event": "step", "step": number, "train/loss": loss, "position": 4 * number, "samples_digest": "00"}


def complete(path: Path) -> RunFolder:
    """A run folder after all stages, with markup wherever text can come from outside."""
    folder = prepared(path, description=f"plays {NASTY}")
    begin = {"event": "start", "step": 0, "world": 2, "device": "cpu"}
    validation = {"event": "validation", "step": 3, "validation/loss": 2.5}
    steps = [step(1, 4.0), step(2, math.nan), step(3, 3.0)]
    write_events(folder, begin, *steps, validation, {"event": "finish", "status": "completed"})
    checkpoint = step_folder(folder.train, 3)
    checkpoint.mkdir()
    record = {"step": 3, "data": "d" * 64, "digest": "e" * 64}
    (checkpoint / "complete.json").write_text(json.dumps(record))
    folder.evaluation.mkdir()
    metrics = [metric("test/bits_per_byte", 1.98), metric("baseline/trigram/bits_per_byte", 2.11)]
    evaluation = {"checkpoint": "e" * 64, "metrics": metrics, "protocols": {"p": {"split": f"test {NASTY}"}}}
    folder.metrics.write_text(json.dumps(evaluation))
    folder.samples.write_text(json.dumps([{"prompt": f"ACT I {NASTY}", "text": f"\n  two  spaces {NASTY}"}]))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = complete(tmp_path_factory.mktemp("runs") / "<img src=x onerror=alert(1)>")
    write_report(folder)
    return folder.report.read_text()


def without_library(page: str) -> str:
    """The page less Bokeh's own code."""
    return re.sub(r"/\* BEGIN bokeh.*?END bokeh[^*]*\*/", "", page, flags=re.DOTALL)


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
    folder.metrics.write_text(json.dumps({"checkpoint": "e" * 64, "metrics": metrics, "protocols": {}}))
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
    folder.metrics.write_text(json.dumps({"checkpoint": "e" * 64, "metrics": metrics, "protocols": {}}))
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


def test_last_value_of_a_step_wins_after_a_restart(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    again = {"event": "start", "step": 1}
    write_events(folder, {"event": "start", "step": 0}, step(1, 4.0), step(2, 3.9), again, step(2, 3.5), step(3, 3.0))
    history = read_history(folder.events)
    assert history.series["train/loss"] == {1: 4.0, 2: 3.5, 3: 3.0}
    assert history.restarts == [1]
    assert history.step == 3


def test_torn_tail_is_left_out_and_other_damage_is_counted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_events(folder, step(1, 4.0), tail='{"broken\n' + json.dumps(step(2, 3.0)) + '\n{"event": "step", "st')
    history = read_history(folder.events)
    assert history.series["train/loss"] == {1: 4.0, 2: 3.0}
    assert history.damaged == 1


def test_reason_of_a_stop_is_forgotten_when_training_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    stop = [{"event": "stop", "reason": "SIGTERM"}, {"event": "finish", "status": "stopped"}]
    write_events(folder, step(1, 4.0), *stop)
    assert (read_history(folder.events).status, read_history(folder.events).reason) == ("stopped", "SIGTERM")
    write_events(folder, step(1, 4.0), *stop, {"event": "start", "step": 1})
    assert read_history(folder.events).status is None


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ((1.98, "lower"), 2.11, "The model needs 1.98 bits per byte; the x baseline needs 2.11: 6 % better."),
        ((3.18, "lower"), 2.06, "The model needs 3.18 bits per byte; the x baseline needs 2.06: 54 % worse."),
        ((2.2, "higher"), 2.0, "The model reaches 2.2 bits per byte; the x baseline reaches 2: 10 % better."),
        ((2.001, "lower"), 2.002, "2.001 bits per byte; the x baseline needs 2.002: 0.05 % better, which is within"),
        ((2.0, "lower"), 2.0, "no difference."),
        ((math.nan, "lower"), 2.0, "is not a number."),
    ],
)
def test_verdict_compares_in_the_direction_that_is_better(own: tuple[float, str], other: float, expected: str) -> None:
    value, better = own
    metrics = [
        metric("test/bits_per_byte", value, better=better),
        metric("baseline/x/bits_per_byte", other, better=better),
    ]
    assert expected in (verdict(Scores.of(metrics)) or "")


def test_verdict_works_for_metrics_of_any_family() -> None:
    metrics = [
        metric("test/accuracy", 0.91, better="higher", unit="share"),
        metric("baseline/majority/accuracy", 0.5, better="higher", unit="share"),
    ]
    assert verdict(Scores.of(metrics)) == ("The model's accuracy is 0.91; the majority baseline's is 0.5: 82 % better.")


def test_verdict_takes_the_best_baseline_under_the_same_protocol() -> None:
    metrics = [
        metric("test/bits_per_byte", 2.0),
        metric("baseline/weak/bits_per_byte", 4.0),
        metric("baseline/strong/bits_per_byte", 2.5),
        metric("baseline/foreign/bits_per_byte", 1.0, protocol="other"),
    ]
    assert "the strong baseline needs 2.5: 20 % better" in (verdict(Scores.of(metrics)) or "")


def test_verdict_without_metrics_or_baselines_claims_nothing() -> None:
    assert verdict(Scores.of([])) is None
    assert "no baseline" in (verdict(Scores.of([metric("test/fid", 7.0, unit="1")])) or "")


@pytest.mark.parametrize(
    ("value", "stderr", "expected"),
    [
        (3.17602, 0.00221, "3.1760 ± 0.0022"),
        (451334.5, 4097.5, "451,334 ± 4,098"),
        (1024.0, 0.0, "1,024 ± 0"),
        (4.6e7, 2e3, "4.6e+07 ± 2e+03"),
        (0.5, None, "0.5"),
        (0.5, math.nan, "0.5"),
        (math.inf, 1.0, "undefined"),
    ],
)
def test_value_is_shown_to_two_digits_of_its_error(value: float, stderr: float | None, expected: str) -> None:
    assert show(metric("test/x", value, stderr=stderr)) == expected


def test_thinned_curve_keeps_its_ends_and_its_peaks() -> None:
    x = np.arange(100_000, dtype=float)
    y = np.random.default_rng(0).normal(size=100_000)
    y[54_321], y[77_777] = 100.0, -100.0
    thin_x, thin_y = thin(x, y)
    assert len(thin_x) <= 2000
    assert (thin_x[0], thin_x[-1]) == (0, 99_999)
    assert {54_321, 77_777} <= set(thin_x)
    assert (np.diff(thin_x) > 0).all()
    assert (thin_y.min(), thin_y.max()) == (-100.0, 100.0)


def test_smoothed_curve_is_the_mean_around_each_value() -> None:
    np.testing.assert_allclose(smooth(np.array([1.0, 2.0, 6.0, 4.0]), 3), [1.5, 3.0, 4.0, 5.0])


def test_curve_without_a_number_says_so() -> None:
    assert describe(read_curve("train", {3: math.nan})) == "train: 1 not a number and not drawn (step 3)."


def span(number: int, **seconds: float) -> list[dict[str, Any]]:
    return [{"event": "span", "step": number, "kind": kind, "seconds": value} for kind, value in seconds.items()]


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


def test_speed_and_memory_are_drawn_in_their_units() -> None:
    series = {"train/memory_bytes": {1: 2.0**31, 2: 2.0**32}, "train/mfu": {2: 0.4}, "train/loss_scale": {1: 65536.0}}
    charts = {chart.title: chart for chart in curve_charts(series, [], {})}
    assert list(charts) == ["Model FLOPs utilisation", "Memory", "Loss scale"]
    memory = charts["Memory"]
    assert "first 2 (step 1), last 4 (step 2)" in memory.caption
    assert memory.plot.yaxis[0].axis_label == "largest use of a rank (GiB)"  # type: ignore[attr-defined]


def test_the_last_lines_of_a_run_say_how_much_of_its_time_counted(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    assert "training:" not in headline(folder)
    write_events(folder, {"event": "start", "step": 0}, step(1, 4.0), *span(1, compute=1.5))
    assert "\ntraining: 75.0 % of 2 s computed steps that count\nreport: " in headline(folder)


def report_of(folder: RunFolder) -> str:
    write_report(folder)
    return without_library(folder.report.read_text())


def evaluated(folder: RunFolder, *metrics: dict[str, Any], **more: Any) -> str:
    """Write what an evaluation leaves; returns its digest."""
    record = {"checkpoint": "e" * 64, "metrics": list(metrics), "protocols": {}} | more
    folder.metrics.write_text(json.dumps(record | {"digest": digest(record)}))
    return digest(record)


def test_a_metric_without_a_value_says_why_and_is_never_first_nor_best(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    lost = {"stderr": None, "undefined": f"no word in the split {NASTY}"}
    evaluated(
        folder,
        metric("test/bits_per_byte", None, **lost),
        metric("test/perplexity", 30.0, interval=[29.98, 30.02]),
        metric("baseline/trigram/bits_per_byte", 2.1),
        metric("baseline/trigram/perplexity", None, **lost),
    )
    page = report_of(folder)
    assert "The model&#39;s perplexity is 30; there is no baseline to compare it with." in page
    card = page[page.index("<dt>test/perplexity</dt>") :].split("</div>")[0]
    assert "<dd>bits/byte; 95 %: 29.980 to 30.020; the baselines are undefined</dd>" in card
    assert f"<td>undefined<small>no word in the split {ESCAPED}</small></td>" in page
    assert "<strong>undefined" not in page
    assert not re.search(r">(nan|None)\b", page)
    assert f"test/bits_per_byte is undefined: no word in the split {NASTY}" in headline(folder)


def test_an_evaluation_of_nothing_but_undefined_metrics_says_so_first(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    evaluated(folder, metric("test/bits_per_byte", None, stderr=None, undefined="an empty split"))
    assert "The model&#39;s bits per byte is undefined: an empty split." in report_of(folder)


def test_real_images_stand_beside_drawn_ones_even_under_another_protocol(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    shape = {"unit": "squared distance", "n": 200}
    evaluated(
        folder,
        metric("samples/frechet_lite0", 12.0, **shape),
        metric("test/loss", 0.1),
        metric("baseline/real/frechet_lite0", 3.0, protocol="q", **shape | {"n": 150}),
    )
    page = report_of(folder)
    assert page.index("<dt>samples/frechet_lite0</dt>") < page.index("<dt>test/loss</dt>")
    assert "under another protocol: real 3.000 ± 0.010" in page
    row = page[page.index('<th scope="row">frechet lite0') :].split("</tr>")[0]
    assert re.findall(r"<td>([^<]*)", row) == ["12.000 ± 0.010", "–", "3.000 ± 0.010", "200 or 150", "p, q"]


def test_parts_of_a_protocol_are_shown_in_words_with_the_metrics_under_it(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    parts = {"stride_tokens": 32, "drawing": {"sampler": "ddim", "steps": 15}}
    evaluated(folder, metric("test/bits_per_byte", 2.0), protocols={"p": parts})
    page = report_of(folder)
    section = page[page.index("<summary>Protocol p</summary>") :]
    assert "<dt>of the metrics</dt><dd>test/bits_per_byte</dd>" in section
    assert "<dt>stride tokens</dt><dd>32</dd>" in section
    assert "<dt>drawing</dt><dd>sampler ddim, steps 15</dd>" in section


def test_a_training_that_learned_too_much_is_marked_where_validation_was_best(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run")
    events: list[dict[str, Any]] = [{"event": "start", "step": 0}]
    for number in range(1, 31):
        events.append(step(number, 4.0 - 0.1 * number))
        events.append({"event": "validation", "step": number, "validation/loss": 3.0 + 0.01 * (number - 10) ** 2})
    write_events(folder, *events, {"event": "early_stop", "reason": "no better for 20 passes"})
    page = report_of(folder)
    assert "<dt>Fit</dt><dd>Overfitting since step 10: validation/loss was best there" in page
    assert "<dt>Ended early</dt><dd>no better for 20 passes</dd>" in page
    caption = page[page.index("<figcaption>train: first") :].split("</figcaption>")[0]
    assert "Overfitting since step 10" in caption
    assert page.count("Overfitting since step 10") == 2  # no other chart is marked


def test_the_result_is_the_checkpoint_that_was_chosen_not_the_newest(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    later = step_folder(folder.train, 9)
    later.mkdir()
    (later / "complete.json").write_text(json.dumps({"step": 9, "data": "d" * 64, "digest": "9" * 64}))
    finished = {"step": 3, "why": "best"}
    (folder.train / "finished.json").write_text(json.dumps(finished | {"digest": digest(finished)}))
    finish = {"event": "finish", "status": "completed"}
    write_events(folder, {"event": "start", "step": 0}, step(9, 4.0), finish)
    page = report_of(folder)
    assert "completed: prepared, trained and evaluated" in page
    assert "<dt>Result</dt><dd>the checkpoint of step 3</dd>" in page
    assert "not taken from the checkpoint" not in page


def test_the_verdict_of_the_gate_is_a_line_and_a_table(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run")
    verdicts = (Verdict("test/bits_per_byte", "worse", f"2 % worse, chance 0.001 {NASTY}", ours=2.04, theirs=2.0),)
    judgement = Judgement("nightly-3", ("run",), verdicts)
    assert "Against the baseline" not in report_of(folder)
    write_json(folder.path / "gate.json", judgement.record())
    page = report_of(folder)
    assert f"run against nightly-3: worse; test/bits_per_byte: 2 % worse, chance 0.001 {ESCAPED}." in page
    assert "<dt>Gate</dt><dd>worse against nightly-3</dd>" in page
    (folder.path / "gate.json").write_text('{"verdict": "same"}')
    with pytest.raises(DamageError, match=r"gate\.json is no verdict of this version"):
        write_report(folder)


def crossed(root: Path, *, done: int = 3) -> RunFolder:
    """A cross-validation of three folds of which `done` are evaluated, collected when all are."""
    folder = RunFolder(root)
    folder.path.mkdir(parents=True)
    overrides = ["data.splits.folds={count: 3}", "data.splits.test=0"]
    folder.config.write_text(dump(load([str(CONFIG), *overrides])))
    told = {}
    for number in range(done):
        fold = complete(folder.fold(f"0-{number}").path)
        told[f"0-{number}"] = evaluated(fold, metric("test/bits_per_byte", 2.0 + 0.1 * number))
    if done == 3:
        folder.evaluation.mkdir()
        mean = metric("cv/bits_per_byte", 2.1, stderr=0.05, interval=[1.9, 2.3], n=3)
        evaluated(folder, mean, metric("baseline/trigram/bits_per_byte", 2.2), folds=told)
        figure = {"kind": "table", "title": "By fold", "columns": ["metric", *told], "rows": [["x", 1.0, None, 2]]}
        folder.figures.write_text(json.dumps([figure]))
    return folder


def test_a_cross_validation_has_its_mean_its_spread_and_the_way_to_each_fold(tmp_path: Path) -> None:
    folder = crossed(tmp_path / "run")
    page = report_of(folder)
    assert "The model needs 2.1 bits per byte" in folder.fold("0-1").report.read_text()
    assert "completed: 3 folds trained and evaluated" in page
    assert "<dd>2.100 ± 0.050</dd><dd>bits/byte; 95 %: 1.90 to 2.30; best baseline: trigram" in page
    assert "<dd>2.10 ± 0.10 (mean ± standard deviation of 3 folds); mean, 95 %: 1.90 to 2.30</dd>" in page
    assert '<a href="folds/0-2/report.html">0-2</a>' in page
    assert re.search(r'row">x</th>\s*<td>1</td>\s*<td>–</td>\s*<td>2</td>', page)
    assert "taken from the folds as they are" in page
    assert "Where the time went" not in page
    assert "evaluate again" not in page


def test_a_cross_validation_that_is_not_done_says_how_far_it_is(tmp_path: Path) -> None:
    page = report_of(crossed(tmp_path / "run", done=2))
    assert "2 of 3 folds trained and evaluated" in page
    assert "This run has not been evaluated; `trainworks run CONFIG.yaml` does it." in page
    assert re.search(r'row">0-2</th>\s*<td>nothing is prepared yet</td>', page)


def test_a_mean_of_folds_that_have_changed_since_is_called_out(tmp_path: Path) -> None:
    folder = crossed(tmp_path / "run")
    evaluated(folder.fold("0-1"), metric("test/bits_per_byte", 2.5))
    page = report_of(folder)
    assert "the metrics were not taken from all folds as they are now; evaluate again" in page
    assert "taken from folds that have changed since" in page
