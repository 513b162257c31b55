"""What a report says of an evaluation: metrics, protocols, the result that was chosen, the gate, folds."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from configs.errors import DamageError
from configs.folder import digest, write_json
from configs.stages import step_folder
from pipelines.gate.verdicts import Judgement, Verdict
from pipelines.report import write_report
from pipelines.summary import headline
from tests.reported import (
    ESCAPED,
    NASTY,
    complete,
    crossed,
    evaluated,
    metric,
    prepared,
    report_of,
    step,
    write_events,
)


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
