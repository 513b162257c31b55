"""Metrics as every part of the program reads them, and what makes two of them comparable."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from configs.errors import DamageError
from configs.folder import RunFolder, digest, write_json
from configs.metrics import Metric, protocol_id, read_evaluation, unlike

PROTOCOL = {"metric": "loss", "stride_tokens": 64}


def metric(**changes: object) -> Metric:
    fields = {"name": "test/loss", "value": 2.0, "stderr": 0.1, "n": 9, "unit": "nats/token", "better": "lower"}
    return Metric(**fields | {"protocol": protocol_id(PROTOCOL)} | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [{"value": math.nan}, {"stderr": math.inf}, {"interval": (1.0, math.nan)}, {"value": None}, {"undefined": "empty"}],
)
def test_a_metric_has_numbers_or_a_reason_for_having_none(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="test/loss"):
        metric(**changes)


def test_a_metric_without_a_value_says_why() -> None:
    assert metric(value=None, stderr=None, undefined="no sample of class 3").undefined == "no sample of class 3"


def test_unlike_protocols_are_told_by_the_parts_that_differ() -> None:
    assert unlike(PROTOCOL, PROTOCOL) == []
    theirs = PROTOCOL | {"stride_tokens": 32, "seed": 1}
    assert unlike(PROTOCOL, theirs) == ["stride_tokens: 64 and 32", "seed: nothing and 1"]
    assert protocol_id(PROTOCOL) != protocol_id(theirs)


def test_of_a_part_with_parts_those_are_told_that_differ() -> None:
    ours = {"features": {"net": "lite0", "resize": "clean"}, "tokenizer": "t"}
    theirs = {"features": {"net": "lite0", "resize": "legacy"}, "tokenizer": "t"}
    assert unlike(ours, theirs) == ["features.resize: clean and legacy"]


@pytest.mark.parametrize(
    ("ours", "theirs", "line"),
    [
        ({"a": None}, {}, "a: None and nothing"),
        ({"a": 1}, {"a": 1.0}, "a: 1 and 1.0"),
        ({"a": {}}, {}, "a: {} and nothing"),
    ],
)
def test_protocols_of_unlike_ids_differ_in_a_part_that_is_named(
    ours: dict[str, object], theirs: dict[str, object], line: str
) -> None:
    assert protocol_id(ours) != protocol_id(theirs)
    assert unlike(ours, theirs) == [line]


def written(path: Path, **changes: object) -> RunFolder:
    folder = RunFolder(path)
    folder.evaluation.mkdir(parents=True)
    metrics = [asdict(metric()), asdict(metric(name="test/accuracy", interval=(0.5, 0.75)))]
    record = {"checkpoint": "c", "data": "d", "metrics": metrics, "protocols": {protocol_id(PROTOCOL): PROTOCOL}}
    write_json(folder.metrics, record | {"digest": digest(json.loads(json.dumps(record)))} | changes)
    return folder


def test_what_an_evaluation_wrote_is_read_again(tmp_path: Path) -> None:
    evaluation = read_evaluation(written(tmp_path))
    assert list(evaluation.metrics) == ["test/loss", "test/accuracy"]
    assert evaluation.metrics["test/loss"] == metric()
    assert evaluation.metrics["test/accuracy"].interval == (0.5, 0.75)
    assert evaluation.protocols == {protocol_id(PROTOCOL): PROTOCOL}


def test_an_altered_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamageError, match="digest is not that of its content"):
        read_evaluation(written(tmp_path, checkpoint="another"))
