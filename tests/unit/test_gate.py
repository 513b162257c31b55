"""Verdicts of the gate: what counts as worse, what is no question of worse, and how it is told."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from kfp.dsl import HTML, Metrics
from scipy.stats import t as student
from scipy.stats import ttest_ind, ttest_rel

from configs.metrics import protocol_id
from pipelines.baselines import earlier_versions, store
from pipelines.gate.artifacts import fill_artifacts
from pipelines.gate.evidence import compare
from pipelines.gate.junit import junit
from pipelines.gate.noise import by_errors, by_seeds, by_units, by_worst_run, families, holm
from pipelines.gate.page import build_page, lines
from pipelines.gate.quarantine import quarantined
from pipelines.gate.readings import Reading
from pipelines.gate.verdicts import Judgement, Verdict, judge
from tests.gated import metric, reading, repeats

OLD = (2.000, 2.004, 1.996)


def verdict_of(ours: list[Reading], theirs: list[Reading], **options: Any) -> Verdict:
    (verdict,) = judge(ours, theirs, baseline="b 0001", **options).verdicts
    return verdict


def test_groups_of_seeds_are_judged_as_scipy_judges_them():
    ours, theirs = (2.1, 2.0, 2.3), (1.9, 2.05, 2.2, 1.95)
    found = by_seeds(ours, theirs)
    assert found is not None
    assert found.p_above == pytest.approx(ttest_ind(ours, theirs, alternative="greater").pvalue)  # type: ignore[attr-defined]
    assert found.p_below == pytest.approx(ttest_ind(ours, theirs, alternative="less").pvalue)  # type: ignore[attr-defined]


def test_one_run_is_held_against_the_interval_of_the_next_run():
    found = by_seeds([2.5], [2.0, 2.1, 1.9])
    assert found is not None
    assert found.error == pytest.approx(0.1 * math.sqrt(1 + 1 / 3))
    assert found.freedom == 2


def test_the_worst_of_several_runs_is_held_against_the_interval_by_the_old_ones_alone():
    old, new = [2.0, 2.1, 1.9, 2.2], [2.0, 5.0, 1.0]
    error = float(np.std(old, ddof=1)) * math.sqrt(1 + 1 / 4)
    for rising, place, value in ((True, 1, 5.0), (False, 2, 1.0)):
        found = by_worst_run(new, old, rising=rising)
        assert found is not None
        assert (found[0], found[1].freedom) == (place, 3)
        assert found[2] == pytest.approx(3 * student.sf(abs(value - np.mean(old)) / error, 3))
    assert by_worst_run([5.0], old, rising=True) is None
    assert by_worst_run(new, [2.0], rising=True) is None


def test_errors_of_few_folds_are_uncertain_themselves():
    found = by_errors(0.1, [0.02, 0.02], folds=5)
    assert found is not None
    assert found.p_above == pytest.approx(student.sf(0.1 / math.hypot(0.02, 0.02), 4))
    known = by_errors(0.1, [0.02, 0.02])
    assert known is not None
    assert known.freedom == math.inf


def test_repeats_of_older_versions_add_to_what_is_known_of_the_noise():
    found = by_seeds([2.5], [2.0], earlier=[(1.0, 1.2), (3.0, 3.2, 3.1)])
    assert found is not None
    assert found.freedom == 3
    assert by_seeds([2.5], [2.0]) is None


def test_a_training_that_is_stored_in_several_versions_tells_of_the_noise_once():
    old = repeats([2.0, 2.01, 1.99, 2.02])
    apart = compare("test/bits_per_byte", repeats([2.05, 2.06], first=7), old, [])
    again = compare("test/bits_per_byte", repeats([2.05, 2.06], first=7), old, [old, old[:3], old])
    more = compare("test/bits_per_byte", repeats([2.05, 2.06], first=7), old, [repeats([2.1, 2.11]), old])
    assert apart is not None
    assert apart == again
    assert more is not None
    assert (apart.freedom, more.freedom) == (4, 5)


def test_paired_units_are_judged_by_every_pattern_of_signs_or_by_its_normal_limit():
    twelve = np.arange(1.0, 13.0)
    few = by_units(twelve, np.zeros(12), change=6.5, slope=1 / 12)
    assert few is not None
    assert (few.p_above, few.p_below) == (2**-12, 1.0)
    rng = np.random.default_rng(0)
    apart = rng.normal(0.1, 1.0, 400)
    many = by_units(apart, np.zeros(400), change=float(apart.mean()), slope=1 / 400)
    assert many is not None
    assert many.p_above == pytest.approx(ttest_rel(apart, np.zeros(400), alternative="greater").pvalue, rel=0.05)
    falling = by_units(apart, np.zeros(400), change=-float(apart.mean()), slope=-1 / 400)
    assert falling is not None
    assert falling.p_below == many.p_above


def test_of_units_so_few_that_no_pattern_of_signs_is_unlikely_a_large_loss_is_told_all_the_same():
    old, new = np.array([400.0, 380.0, 410.0, 395.0, 0.0]), np.array([1600.0, 1540.0, 1650.0, 1560.0, 0.0])
    found = by_units(new, old, change=float((new - old).mean()), slope=1 / 5)
    assert found is not None
    assert found.p_above == pytest.approx(ttest_rel(new, old, alternative="greater").pvalue)
    alike = by_units(np.ones(3), np.zeros(3), change=1.0, slope=1 / 3)
    assert alike is not None
    assert alike.p_above == 1 / 8, "three coins, not certainty"


def test_many_chances_are_corrected_step_by_step_and_one_quantity_counts_once():
    chances = {"a": 0.01, "b": 0.02, "c": 0.03, "d": 0.5}
    apart = {name: number for number, name in enumerate(chances)}
    assert holm(chances, apart) == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.5})
    assert holm(chances, apart | {"b": 0}) == pytest.approx({"a": 0.03, "b": 0.03, "c": 0.06, "d": 0.5})
    turned = {"b": 0.02, "a": 0.01, "c": 0.03, "d": 0.5}
    assert holm(turned, apart | {"b": 0})["a"] == pytest.approx(0.06), "the first name speaks, not the luckiest"


def test_quantities_that_put_all_runs_in_one_order_are_one():
    loss = [2.0, 2.3, 2.1, 2.2, 2.5, 2.4]
    values = {"loss": loss, "perplexity": [math.exp(each) for each in loss], "minus": [-each for each in loss]}
    values |= {"other": [*loss[1:], loss[0]], "still": [1.0] * 6, "other still": [1.0] * 6}
    assert families(values) == {"loss": 0, "perplexity": 0, "minus": 0, "other": 1, "still": 2, "other still": 3}
    accuracy = [0.9, 0.92, 0.94, 0.96, 0.92, 0.98]
    assert families({"accuracy": accuracy, "micro": accuracy, "top": [0.9, *accuracy[1:4], 0.95, 0.98]}) == {
        "accuracy": 0,
        "micro": 0,
        "top": 1,
    }, "two that tie apart are two"


def test_a_change_counts_when_it_is_beyond_chance_and_large_enough():
    worse = verdict_of(repeats([2.04, 2.044, 2.036], first=5), repeats(OLD))
    assert (worse.word, round(worse.percent or 0, 1)) == ("worse", -2.0)
    assert verdict_of(repeats([1.96, 1.964, 1.956], first=5), repeats(OLD)).word == "better"
    small = verdict_of(repeats([2.008, 2.0081, 2.0079], first=5), repeats([2.0, 2.0001, 1.9999]))
    assert (small.word, "under 0.5 %" in small.reason) == ("same", True)
    noisy = verdict_of(repeats([2.2, 1.8, 2.3], first=5), repeats([2.1, 1.7, 2.2]))
    assert (noisy.word, "within chance" in noisy.reason) == ("same", True)
    assert verdict_of(
        repeats([0.90], first=5, better="higher"), repeats([0.95, 0.951, 0.949], better="higher")
    ).word == ("worse")


@pytest.mark.parametrize("seeds", [3, 8])
@pytest.mark.parametrize(
    ("new", "told"),
    [([2.0, 2.01, 9.0], "run-22 alone is 350 % worse"), ([9.0, 2.01, 40.0], "run-22 alone is 1900 % worse")],
)
def test_seeds_that_blow_up_do_not_hide_behind_the_spread_that_they_make(new: list[float], told: str, seeds: int):
    old = repeats([2.0 + 0.01 * (seed % 3 - 1) for seed in range(seeds)])
    verdict = verdict_of(repeats(new, first=20), old)
    assert verdict.word == "worse"
    assert verdict.reason.startswith(told)
    uncertain = [
        reading(20 + seed, metric("test/bits_per_byte", each, stderr=100 * each)) for seed, each in enumerate(new)
    ]
    known = [
        reading(run.seed, metric("test/bits_per_byte", run.metrics["test/bits_per_byte"].value, stderr=0.01))
        for run in old
    ]
    assert verdict_of(uncertain, known).word == "worse", "an error that blew up too excuses nothing"


def test_one_lucky_run_is_no_gain_and_one_that_blows_up_is_a_loss_whatever_the_others_gain():
    assert verdict_of(repeats([2.0, 2.001, 0.2], first=5), repeats(OLD)).word == "same"
    verdict = verdict_of(repeats([1.0, 1.001, 3.0], first=5), repeats(OLD))
    assert (verdict.word, verdict.percent) == ("worse", pytest.approx(16.65, abs=0.01))
    assert verdict.reason.startswith("run-7 alone is 50 % worse")
    falling = verdict_of(repeats([2.0, 2.001, 0.2], first=5, better="higher"), repeats(OLD, better="higher"))
    assert falling.reason.startswith("run-7 alone is 90 % worse")


def test_the_least_change_that_counts_is_asked_of_a_run_alone_too():
    old = repeats([2.0, 2.0001, 1.9999, 2.0])
    small = verdict_of(repeats([2.0, 2.0, 2.008], first=5), old)
    assert (small.word, small.percent) == ("same", pytest.approx(-0.133, abs=0.001))
    assert verdict_of(repeats([2.0, 2.0, 2.012], first=5), old).word == "worse"
    assert verdict_of(repeats([2.0095, 2.0096, 2.0104], first=5), old).reason.startswith("run-7 alone is 0.52 %")


def test_two_tests_of_a_loss_share_its_level_and_one_new_run_is_tested_once():
    several, one = [2.01, 2.012, 2.011], [2.01]
    for new, tests in ((several, 2), (one, 1)):
        found = by_seeds(new, OLD)
        assert found is not None
        assert verdict_of(repeats(new, first=5), repeats(OLD)).chance == pytest.approx(tests * found.p_above)
    gain = by_seeds([1.99, 1.992, 1.991], OLD)
    assert gain is not None
    assert verdict_of(repeats([1.99, 1.992, 1.991], first=5), repeats(OLD)).chance == pytest.approx(gain.p_below)


def test_only_versions_of_the_newest_ones_configuration_lend_their_noise(tmp_path: Path):
    wild = [replace(run, config={"train": {"steps": 1}}) for run in repeats([4.0, 5.5, 7.0], first=20)]
    for runs in (wild, repeats([2.0, 2.01, 1.99], first=30), repeats(OLD)):
        newest = store("demo", runs, tmp_path)
    earlier = earlier_versions(newest, tmp_path)
    assert [[run.seed for run in group] for group in earlier] == [[30, 31, 32]]
    new = repeats([2.2, 2.21, 2.19], first=5)
    assert verdict_of(new, repeats(OLD), earlier=earlier).word == "worse"
    assert verdict_of(new, repeats(OLD), earlier=[*earlier, wild]).word == "same", "such noise would hide it"


def test_seeds_that_agree_by_luck_do_not_make_noise_a_regression():
    old, new = [0.95, 0.95, 0.95], [0.94, 0.94, 0.94]
    lucky = verdict_of(repeats(new, first=5, better="higher", stderr=0.2), repeats(old, better="higher", stderr=0.2))
    assert lucky.word == "same"


def test_equal_runs_are_the_same_even_where_nothing_is_known_of_the_noise():
    verdict = verdict_of(repeats([2.0]), repeats([2.0]))
    assert (verdict.word, verdict.reason) == ("same", "no difference; equal to the last bit")


def test_runs_equal_to_those_of_the_baseline_with_their_seeds_are_the_same_whatever_its_other_seeds_say():
    same = verdict_of(repeats([2.0, 2.0]), repeats([2.0, 2.0, 1.8, 1.8001]))
    assert (same.word, same.reason) == ("same", "no difference; equal to the last bit for each of 2 seeds")
    assert verdict_of(repeats([2.0, 2.0], first=7), repeats([2.0, 2.0, 1.9, 1.9])).reason.startswith("-2.6 %, within")


def test_two_single_runs_are_judged_by_shared_units_and_said_to_lack_the_noise_of_seeds():
    rng = np.random.default_rng(1)
    old = rng.normal(2.0, 0.5, 200)
    new = old + rng.normal(0.05, 0.05, 200)
    sides = [
        [reading(0, metric("test/loss", float(sums.mean()), stderr=0.035), units={"test/loss": sums.tolist()})]
        for sums in (new, old)
    ]
    paired = verdict_of(*sides)
    assert (paired.word, "200 paired units, no seed noise" in paired.reason) == ("worse", True)
    by_error = verdict_of(*([reading(0, *side[0].metrics.values())] for side in sides))
    assert (by_error.word, "standard errors, no seed noise" in by_error.reason) == ("same", True)


def test_two_cross_validations_are_judged_with_the_freedom_of_their_folds():
    folds = {"folds": 5, "repeats": 1, "value": "mean over folds"}

    def run(seed: int, value: float, protocol: dict[str, Any]) -> Reading:
        shape = {"stderr": 0.02, "better": "higher", "protocol": protocol_id(protocol)}
        return replace(
            reading(seed, metric("cv/accuracy", value, **shape)), protocols={protocol_id(protocol): protocol}
        )

    few = verdict_of([run(1, 0.8, folds)], [run(0, 0.9, folds)])
    assert (few.word, few.chance) == ("same", pytest.approx(student.sf(0.1 / math.hypot(0.02, 0.02), 4)))
    assert "over 5 folds, no seed noise" in few.reason
    assert verdict_of([run(1, 0.8, folds | {"repeats": 4})], [run(0, 0.9, folds | {"repeats": 4})]).word == "worse"
    samples = {"kind": "classes"}
    assert verdict_of([run(1, 0.8, samples)], [run(0, 0.9, samples)]).word == "worse"


def test_two_single_runs_without_units_or_errors_are_too_few():
    assert by_errors(0.1, []) is None
    verdict = verdict_of(repeats([2.1]), repeats([2.0]))
    assert verdict.word == "not comparable"
    assert verdict.reason.startswith("too few: one run on each side")


def test_unlike_protocols_are_not_compared_and_the_part_that_differs_is_named():
    other = {"kind": "rolling window", "stride_tokens": 64}
    run = reading(5, metric("test/bits_per_byte", 1.0, protocol=protocol_id(other)))
    run = Reading(**{**vars(run), "protocols": {protocol_id(other): other}})
    judgement = judge([run], repeats(OLD), baseline="b 0001")
    assert (judgement.word, judgement.code) == ("not comparable", 2)
    assert "stride_tokens: 64 and 32" in judgement.verdicts[0].reason


def test_a_metric_that_is_undefined_or_gone_stops_the_gate_and_a_new_one_does_not():
    undefined = [reading(5, metric("test/bits_per_byte", None, undefined="the test split is empty"))]
    assert "the test split is empty" in verdict_of(undefined, repeats(OLD)).reason
    assert judge(undefined, repeats(OLD), baseline="b").code == 2
    both = [
        reading(seed, metric("test/bits_per_byte", 2.0), metric("test/fid", None, undefined="32 images"))
        for seed in (5, 6)
    ]
    assert judge(both, both, baseline="b").code == 0, "nothing is lost where nothing was"
    more = [reading(seed, metric("test/bits_per_byte", 2.0), metric("test/new", 1.0)) for seed in (5, 6)]
    assert judge(more, repeats(OLD), baseline="b").code == 0
    gone = judge(repeats(OLD, first=5), more, baseline="b")
    assert (gone.code, [each.name for each in gone.verdicts if each.blocks]) == (2, ["test/new"])


def test_speed_on_other_hardware_is_not_compared_and_does_not_stop_the_gate():
    def runs(device: str, first: int) -> list[Reading]:
        machine = {"quantity": "median", "device": device}
        found = []
        for seed, value in enumerate(OLD, first):
            speed = metric("train/tokens_per_s", 100.0, better="higher", protocol=protocol_id(machine))
            run = reading(seed, metric("test/bits_per_byte", value), speed)
            found.append(Reading(**{**vars(run), "protocols": {**run.protocols, protocol_id(machine): machine}}))
        return found

    judgement = judge(runs("abacus", 5), runs("slide rule", 0), baseline="b")
    assert judgement.code == 0
    assert "device: abacus and slide rule" in judgement.verdicts[1].reason


def gates(words: str, *, codes: str | None = None, **changes: object) -> list[dict[str, Any]]:
    """A history by first letters of verdicts, b, s, w, n, and of codes, one for all when not given."""
    names = {"b": "better", "s": "same", "w": "worse", "n": "not comparable"}
    asked = {"version": 1, "alpha": 0.01, "minimum": {"quality": 0.5}, "runs": ["a", "b", "c"]} | changes
    return [
        asked | {"code": code, "verdicts": {"m": names[letter]}}
        for letter, code in zip(words, codes or "x" * len(words), strict=True)
    ]


@pytest.mark.parametrize("words", ["sw", "bs", "wnnns", "swssss"])
def test_a_metric_that_says_two_things_of_one_training_is_in_quarantine(words: str):
    assert quarantined(gates(words)) == {"m"}


def test_one_code_is_told_two_things_though_others_were_gated_between():
    assert quarantined(gates("wsssw", codes="abcda")) == frozenset()
    assert quarantined(gates("wssss", codes="abcda")) == {"m"}
    assert quarantined(gates("w" + "s" * 10, codes="abcdefghija")) == frozenset(), "too long ago"


@pytest.mark.parametrize("words", ["s", "ssss", "wwww", "nsns", "swsssss"])
def test_a_metric_that_keeps_still_is_not_or_no_longer(words: str):
    assert quarantined(gates(words)) == frozenset()


def test_a_change_of_verdict_between_two_codes_is_what_a_gate_is_for_and_its_mending_too():
    assert quarantined(gates("swwwsb", codes="abcdef")[:5]) == frozenset()
    assert quarantined(gates("sswwsss", codes="abcdefg")) == frozenset()


def test_a_metric_that_goes_to_and_fro_night_after_night_is_in_quarantine_whatever_the_code():
    assert quarantined(gates("swsw", codes="abcd")) == {"m"}
    assert quarantined(gates("sw" * 15, codes="abcdefghijklmnopqrstuvwxyz1234")) == {"m"}
    rare = "s" * 9 + "w" + "s" * 9 + "w" + "s" * 9
    assert quarantined(gates(rare, codes="abcdefghijklmnopqrstuvwxyz123")) == frozenset(), "too seldom"
    other = [gate | {"version": 2} for gate in gates("sw", codes="cd")]
    assert quarantined([*gates("sw", codes="ab"), *other]) == frozenset(), "held against another version"


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"config": "d"},
        {"data": "e"},
        {"alpha": 0.05},
        {"minimum": {"quality": 5.0}},
        {"runs": ["a"]},
        {"code": "y"},
    ],
)
def test_gates_that_asked_something_else_contradict_nothing(changes: dict[str, object]):
    other = [gate | changes for gate in gates("w")]
    assert quarantined([*gates("s"), *other]) == frozenset()
    assert quarantined([*other, *gates("s")]) == frozenset()


def test_gates_of_unknown_code_contradict_nothing():
    assert quarantined([gate | {"code": None} for gate in gates("sws")]) == frozenset()


def judgement() -> Judgement:
    verdicts = (
        Verdict("test/loss", "worse", "2 % worse & <sure>", "quality", "nats/token", 2.04, 2.0, -2.0, 1e-4),
        Verdict("test/accuracy", "worse", "3 % worse", percent=-3.0, quarantined=True),
        Verdict("test/fid", "not comparable", "unlike protocols", blocks=True),
        Verdict("train/resume_s", "not comparable", "none", "resume"),
        Verdict("train/tokens_per_s", "same", "no difference", "speed", percent=0.0),
    )
    return Judgement("demo 0001", ("a", "b"), verdicts, ("a note",))


def test_junit_has_a_case_for_each_metric_and_tells_failures_errors_and_skips_apart():
    suite = ElementTree.fromstring(junit(judgement()))
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5",
        "failures": "1",
        "errors": "1",
        "skipped": "2",
    }
    (failure,) = suite.iter("failure")
    assert failure.get("message") == "worse: 2 % worse & <sure>"


def test_junit_has_an_error_where_nothing_could_be_compared():
    gone = Verdict("train/resume_s", "not comparable", "none", "resume")
    suite = ElementTree.fromstring(junit(Judgement("demo 0001", ("a",), (gone,))))
    assert (suite.get("tests"), suite.get("errors"), suite.get("skipped")) == ("2", "1", "1")


def test_the_page_and_the_lines_say_each_verdict_with_its_reason():
    page = build_page(judgement())
    assert "Worse than the baseline" in page
    assert "2 % worse &amp; &lt;sure&gt;" in page
    assert "(worse)" in page
    assert "a note" in page
    assert list(lines(judgement()))[-1] == "a, b against demo 0001: worse"


def test_a_component_gets_the_gains_and_the_page(tmp_path: Path):
    metrics, html = Metrics(uri=str(tmp_path / "m")), HTML(uri=str(tmp_path / "out" / "page.html"))
    fill_artifacts({"language": judgement()}, build_page(judgement()), metrics, html)
    assert metrics.metadata["language test/loss gain %"] == -2.0
    assert metrics.metadata["language verdict"] == "worse"
    assert "Worse than the baseline" in Path(html.path).read_text()
