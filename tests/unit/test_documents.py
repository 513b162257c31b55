"""A language model's score by document: what is paired, and what is shown."""

import json
import math

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import WordLevel

from tests.tiny import Ids
from trainer.evaluation.contract import Units
from trainer.evaluation.documents import SHOWN, document_figures, document_units
from trainer.evaluation.windows import windows_of


@pytest.fixture
def tokenizer() -> Tokenizer:
    """Token 0 ends a document, others are letters."""
    made = Tokenizer(WordLevel({"<end>": 0} | {letter: place for place, letter in enumerate("abc", 1)}, "<end>"))
    made.decoder = ByteLevel()
    made.add_special_tokens(["<end>"])
    return made


def documents(lengths: list[int]) -> list[Ids]:
    """Of so many letters, and an end."""
    return [np.append(np.arange(length) % 3 + 1, 0) for length in lengths]


def units_of(lengths: list[int], nll: list[float]) -> Units:
    ids = np.arange(len(lengths))
    return Units(ids, np.array(nll), np.array(lengths, dtype=np.float64) + 1)


def test_units_are_documents_and_their_sums_make_up_the_loss() -> None:
    windows = windows_of(documents([9, 1, 4]), tokens=4, stride=2)
    nll = np.arange(len(windows), dtype=np.float64)
    units = document_units(windows, nll)
    assert units.ids.tolist() == [0, 1, 2]
    assert units.ids.dtype == np.int64
    assert units.sizes.tolist() == [10, 2, 5]
    assert units.sums.sum() == nll.sum()
    assert units.sums[1] == nll[[place for place, window in enumerate(windows) if window[0] == 1]].sum()


def test_the_hardest_and_the_easiest_are_shown_in_bits_per_byte(tokenizer: Tokenizer) -> None:
    lengths = [40] * 11 + [3]
    nll = [*(float(place) for place in range(11)), 1000.0]
    table, bars = document_figures(documents(lengths), units_of(lengths, nll), tokenizer)
    assert [row[0] for row in table["rows"]] == [10, 9, 8, 7, 6, 4, 3, 2, 1, 0]
    assert len(table["rows"]) == 2 * SHOWN
    assert "fewer than 32 tokens are left out" in table["note"], "the short one is no. 11"
    first = dict(zip(table["columns"], table["rows"][0], strict=True))
    assert (first["tokens"], first["nats/token"]) == (41, round(10 / 41, 4))
    assert first["bits/byte"] == pytest.approx(10 / math.log(2) / 40, abs=1e-4)
    assert first["begins"].startswith("abc")
    assert sum(bars["y"]) == 12
    assert json.loads(json.dumps([table, bars], allow_nan=False)) == [table, bars]


def test_of_a_few_documents_all_are_shown_and_one_without_text_is_not(tokenizer: Tokenizer) -> None:
    lengths = [5, 0, 2]
    table, bars = document_figures(documents(lengths), units_of(lengths, [1.0, 5.0, 9.0]), tokenizer)
    assert [row[0] for row in table["rows"]] == [2, 0]
    assert "left out" not in table["note"]
    assert sum(bars["y"]) == 2


def test_a_single_document_has_no_histogram_and_none_with_text_no_figure(tokenizer: Tokenizer) -> None:
    assert [each["kind"] for each in document_figures(documents([5]), units_of([5], [1.0]), tokenizer)] == ["table"]
    assert document_figures(documents([0]), units_of([0], [1.0]), tokenizer) == []
