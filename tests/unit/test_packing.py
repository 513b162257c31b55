"""Blocks of tokens: nothing is lost, each token is predicted once, and a document that fits stays whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from data.packing import (
    best_fit,
    block_bounds,
    block_count,
    document_ids,
    pack,
    pack_best_fit,
    pack_documents,
    unpack,
)

END = 0
LENGTHS = st.lists(st.integers(0, 30), max_size=12)
BLOCK = st.integers(2, 20)


def documents(lengths: list[int]) -> list[NDArray[np.int64]]:
    """Distinct ids from 1 on, so that no token can be taken for another, with END after each document."""
    ids, found = iter(range(1, 10_000)), []
    for length in lengths:
        found.append(np.array([*(next(ids) for _ in range(length)), END]))
    return found


def joined(given_ones: list[NDArray[np.int64]]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    flat = np.concatenate([np.empty(0, np.uint16), *(each.astype(np.uint16) for each in given_ones)])
    return flat, np.array([len(each) for each in given_ones], np.int64)


def blocks_of(flat: NDArray[np.uint16], lengths: NDArray[np.int64]) -> list[list[int]]:
    assert flat.dtype == np.uint16
    assert len(flat) == lengths.sum()
    return [block.tolist() for block in np.split(flat, np.cumsum(lengths)[:-1]) if len(block)]


@given(lengths=LENGTHS, length=BLOCK)
def test_packing_predicts_each_token_once_and_unpacking_gives_the_documents_back(lengths: list[int], length: int):
    given_ones = documents(lengths)
    blocks = list(pack(given_ones, length=length, context=END))
    stream = np.concatenate([*given_ones, np.empty(0, np.int64)])
    predicted = np.concatenate([*(block[1:] for block in blocks), np.empty(0, np.int64)])
    assert predicted.tolist() == stream.tolist()
    assert all(len(block) == length + 1 for block in blocks[:-1])
    assert all(1 < len(block) <= length + 1 for block in blocks)
    contexts = [END, *stream.tolist()]
    assert [int(block[0]) for block in blocks] == [contexts[place * length] for place in range(len(blocks))]
    if blocks:
        assert [each.tolist() for each in unpack(blocks, END)] == [each.tolist() for each in given_ones]


def test_packing_nothing_makes_no_block():
    assert list(pack([], length=4, context=END)) == []


def test_packing_a_long_document_does_not_wait_for_the_next():
    def endless():
        yield np.arange(1, 100)
        raise AssertionError("a block was ready before this document was asked for")

    assert next(pack(endless(), length=10, context=END)).tolist() == [0, *range(1, 11)]


@given(lengths=LENGTHS, length=BLOCK)
def test_blocks_of_the_joined_stream_lie_where_packing_cuts_them(lengths: list[int], length: int):
    given_ones = documents(lengths)
    stream = np.concatenate([np.array([END]), *given_ones])
    tokens = len(stream) - 1
    sliced = [slice(*block_bounds(block, tokens, length)) for block in range(block_count(tokens, length))]
    cut = [block.tolist() for block in pack(given_ones, length=length, context=END)]
    assert [stream[each].tolist() for each in sliced] == cut


@given(lengths=LENGTHS, length=BLOCK)
def test_best_fit_predicts_each_token_once_and_cuts_only_what_is_longer_than_a_block(lengths: list[int], length: int):
    given_ones = documents(lengths)
    flat, sizes = joined(given_ones)
    made, block_lengths = pack_best_fit(flat, sizes, length=length, context=END)
    blocks = blocks_of(made, block_lengths)
    assert all(block[0] == END and 1 < len(block) <= length + 1 for block in blocks)
    predicted = [token for block in blocks for token in block[1:]]
    assert sorted(predicted) == sorted(flat.tolist())
    texts = ["".join(f"<{token}>" for token in block[1:]) for block in blocks]
    for document in given_ones:
        for begin in range(0, len(document), length):
            chunk = "".join(f"<{token}>" for token in document[begin : begin + length])
            assert any(chunk in text for text in texts)


@given(lengths=st.lists(st.integers(0, 50), max_size=60), capacity=st.integers(1, 20))
def test_best_fit_never_opens_a_block_for_what_fits_in_another(lengths: list[int], capacity: int):
    sizes = np.array(lengths, np.int64)
    bins = best_fit(sizes, capacity)
    filled = [int((bins.ends - bins.begins)[a:b].sum()) for a, b in zip(bins.firsts, bins.firsts[1:], strict=False)]
    assert len(filled) == len(bins)
    assert all(0 < each <= capacity for each in filled)
    assert sum(filled) == sum(lengths)
    assert sum(2 * each <= capacity for each in filled) <= 1
    assert np.bincount(bins.documents, minlength=len(sizes)).tolist() == [-(-each // capacity) for each in lengths]


def test_best_fit_puts_each_document_where_least_room_stays():
    bins = best_fit(np.array([6, 4, 7, 3, 5, 5]), 10)
    placed = [bins.documents[a:b].tolist() for a, b in zip(bins.firsts, bins.firsts[1:], strict=False)]
    assert placed == [[0, 1], [2, 3], [4, 5]]


def test_best_fit_keeps_the_order_of_documents_between_and_within_blocks():
    bins = best_fit(np.array([1, 9, 12, 2, 8]), 10)
    placed = [bins.documents[a:b].tolist() for a, b in zip(bins.firsts, bins.firsts[1:], strict=False)]
    assert placed == [[0, 1], [2], [2, 4], [3]]
    assert (bins.begins[2], bins.ends[2], bins.begins[3], bins.ends[3]) == (0, 10, 10, 12)


def test_best_fit_of_nothing_is_nothing():
    assert len(best_fit(np.empty(0, np.int64), 8)) == 0
    made, lengths = pack_best_fit(np.empty(0, np.uint16), np.empty(0, np.int64), length=8, context=END)
    assert (made.dtype, len(made), len(lengths)) == (np.uint16, 0, 0)


def test_best_fit_wastes_little_of_many_documents():
    lengths = np.random.default_rng(0).integers(1, 400, 20_000)
    bins = best_fit(lengths, 512)
    assert lengths.sum() / (len(bins) * 512) > 0.995


@given(lengths=LENGTHS, length=BLOCK)
def test_a_document_a_block_is_cut_at_its_length_and_the_rest_counted(lengths: list[int], length: int):
    given_ones = documents(lengths)
    made, block_lengths, dropped = pack_documents(*joined(given_ones), length=length, context=9999)
    blocks = blocks_of(made, block_lengths)
    assert blocks == [[9999, *document[:length].tolist()] for document in given_ones]
    assert dropped == sum(max(0, len(document) - length) for document in given_ones)


@given(lengths=LENGTHS, length=BLOCK)
def test_document_ids_part_the_documents_of_both_packings(lengths: list[int], length: int):
    given_ones = documents(lengths)
    owner = {int(token): place for place, document in enumerate(given_ones) for token in document[:-1]}
    blocks = [np.array(block) for block in blocks_of(*pack_best_fit(*joined(given_ones), length=length, context=END))]
    for block in [*pack(given_ones, length=length, context=END), *blocks]:
        ids = document_ids(block, END)
        assert (ids.dtype, len(ids), ids[0]) == (np.int32, len(block) - 1, 0)
        seen: dict[int, set[int]] = {}
        for token, number in zip(block[:-1].tolist(), ids.tolist(), strict=True):
            if token != END:
                seen.setdefault(number, set()).add(owner[token])
        assert all(len(owners) == 1 for owners in seen.values())
        assert len(set().union(*seen.values())) == len(seen)


@pytest.mark.parametrize(
    ("block", "expected"),
    [([0, 5, 6, 0, 7], [0, 0, 0, 1]), ([5, 0, 6, 0, 0, 7], [0, 1, 1, 2, 3]), ([5, 6, 7], [0, 0]), ([0], [])],
)
def test_an_end_token_opens_the_document_after_it(block: list[int], expected: list[int]):
    assert document_ids(np.array(block, np.uint16), END).tolist() == expected
