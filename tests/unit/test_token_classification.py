"""Token classification: spans, sums over samples, baselines that know the token alone."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import DamageError, DataError
from configs.language import EncoderConfig, TokenClassificationConfig
from data.manifest import Manifest, Split, TokenizerRecord
from trainer.distributed import add
from trainer.evaluation.token_classes import spell
from trainer.tasks.token_classification import TokenClassification, kind_names, span_kinds, spans

TAGS = ("O", "B-PER", "I-PER", "LOC")


def manifest(tags: tuple[str, ...] = TAGS) -> Manifest:
    split = Split(documents=1, bytes=1, samples=1, shards=(), tags=dict(zip(tags, (90, 4, 4, 2), strict=False)))
    record = TokenizerRecord(
        file="", sha256="", vocabulary_size=16, end_of_document="", end_of_document_id=3, special={"pad": 0}
    )
    fields: dict[str, Any] = {
        "schema_version": 3,
        "digest": "",
        "kind": "text",
        "config": "",
        "dropped": {},
        "checks": {},
    }
    fields |= {"sources": (), "fields": ("tokens.npy", "tags.npy"), "tokenizer": record, "block_tokens": 8}
    return Manifest(**fields, tags=tags, splits={"train": split})


def task(**more: Any) -> TokenClassification:
    model = EncoderConfig(kind="encoder", num_layers=1, width=16, num_heads=2)
    return TokenClassification(TokenClassificationConfig(kind="token_classification", model=model, **more), manifest())


def sample(number: int, tags: list[int]) -> dict[str, Any]:
    return {"id": number, "position": number, "tokens": [3, *range(4, 4 + len(tags))], "tags": [-100, *tags]}


def slow_spans(row: list[int]) -> set[tuple[int, int, int]]:
    """(kind, begin, end) by walking from left to right."""
    kinds, openings = (each.tolist() for each in span_kinds(TAGS))
    found, begin = set(), None
    for place in range(len(row) + 1):
        kind = kinds[row[place]] if place < len(row) else 0
        before = kinds[row[place - 1]] if place else 0
        if begin is not None and (place == len(row) or kind != before or openings[row[place]]):
            found.add((before, begin, place))
            begin = None
        if place < len(row) and kind and begin is None:
            begin = place
    return found


@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=4))
def test_spans_are_those_that_a_walk_finds(rows: list[list[int]]):
    kind, end = spans(torch.tensor(rows), *span_kinds(TAGS))
    for row, kinds, ends in zip(rows, kind.tolist(), end.tolist(), strict=True):
        assert {(k, place, e) for place, (k, e) in enumerate(zip(kinds, ends, strict=True)) if k} == slow_spans(row)


def test_two_tags_of_one_kind_are_one_kind():
    assert span_kinds(TAGS)[0].tolist() == [0, 1, 1, 2]
    assert kind_names(TAGS) == ["PER", "LOC"]


def test_while_training_f1_is_that_of_whole_spans_and_padding_has_none():
    family = task()
    tags = family.collate([sample(0, [1, 2, 0, 3, -100]), sample(1, [0, 3, -100])]).tensors["tags"]
    predicted = tags.clamp(min=0).clone()
    nll = torch.tensor([4.0, 2.0], dtype=torch.float64)

    def told() -> dict[str, float]:
        return family.metrics({name: float(value) for name, value in family.sums(nll, predicted, tags).items()})

    assert told() == {"loss": 1, "accuracy": 1, "f1": 1}
    predicted[0, 1] = 0  # the first span is too short
    assert told() == {"loss": 1, "accuracy": pytest.approx(5 / 6), "f1": pytest.approx(2 / 3)}
    predicted[:] = 0
    assert told()["f1"] == 0


def test_sums_of_two_batches_add_up_to_those_of_both():
    family = task()
    nets = {name: net.eval() for name, net in family.networks().items()}
    samples = [sample(0, [1, 2, 0]), sample(1, [0, 3, 3, 3, 1, 2]), sample(2, [0])]
    whole = family.evaluate(nets, family.collate(samples))
    parts = add(family.evaluate(nets, family.collate(samples[:1])), family.evaluate(nets, family.collate(samples[1:])))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-6, atol=1e-6)


def test_rare_tags_weigh_more_and_on_average_the_same():
    weights = task(class_weights="inverse_frequency").weights
    assert weights is not None
    assert torch.dot(weights.double(), torch.tensor([0.9, 0.04, 0.04, 0.02]).double()).item() == pytest.approx(1)
    assert weights.argsort().tolist()[0] == 0


def test_data_without_tags_is_refused():
    with pytest.raises(DataError, match=r"needs tagged text.*data\.source\.tags_field"):
        TokenClassification(
            TokenClassificationConfig(kind="token_classification", model=EncoderConfig(kind="encoder")), manifest(())
        )


def test_a_number_that_is_no_tag_is_damage():
    with pytest.raises(DamageError, match="sample 7 has tag 4, the data has 4"):
        task().collate([sample(7, [0, 4])])


def test_a_text_is_spelled_with_its_stretches_in_brackets():
    class Letters:
        def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
            return "".join("abcdef"[each] for each in ids)

    assert spell([0, 1, 2, 3], [0, 3, 3, 0], TAGS, Letters()) == "a [LOC: bc] d"  # type: ignore[arg-type]
