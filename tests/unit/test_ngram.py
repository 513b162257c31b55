"""Kneser-Ney against a slow implementation that follows the formulas with dictionaries."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest

from configs.errors import ConfigError
from tests.tiny import Ids, random_documents
from trainer.evaluation.ngram import KneserNey

END = 0
Gram = tuple[int, ...]


class Slow:
    """Interpolated Kneser-Ney (Chen and Goodman, 1998, equation 16): counts on top, distinct predecessors below."""

    def __init__(self, documents: Sequence[Ids], order: int, size: int) -> None:
        self.order, self.size = order, size
        counts: Counter[Gram] = Counter()
        for document in documents:
            padded = [END] * (order - 1) + document.tolist()
            counts.update(tuple(padded[i : i + order]) for i in range(len(document)))
        self.counts: dict[int, Counter[Gram]] = {order: counts}
        for length in range(order - 1, 0, -1):
            self.counts[length] = Counter(gram[1:] for gram in self.counts[length + 1])
        self.totals: dict[int, Counter[Gram]] = {}
        self.followers: dict[int, dict[Gram, set[int]]] = {}
        for length, grams in self.counts.items():
            totals, followers = Counter[Gram](), defaultdict[Gram, set[int]](set)
            for gram, count in grams.items():
                totals[gram[:-1]] += count
                followers[gram[:-1]].add(gram[-1])
            self.totals[length], self.followers[length] = totals, followers

    def discount(self, length: int) -> float:
        of_counts = Counter(self.counts[length].values())
        if not of_counts[1] or not of_counts[2]:
            return 0.5
        return of_counts[1] / (of_counts[1] + 2 * of_counts[2])

    def probability(self, gram: Gram) -> float:
        if not gram:
            return 1 / self.size
        length, context = len(gram), gram[:-1]
        shorter = self.probability(gram[1:])
        total = self.totals[length][context]
        if not total:
            return shorter
        discount = self.discount(length)
        kept = max(self.counts[length][gram] - discount, 0) / total
        return kept + discount * len(self.followers[length][context]) / total * shorter

    def nll(self, document: Ids) -> list[float]:
        padded = [END] * (self.order - 1) + document.tolist()
        return [-math.log(self.probability(tuple(padded[i : i + self.order]))) for i in range(len(document))]


def corpus(seed: int, lengths: Sequence[int], size: int) -> list[Ids]:
    return random_documents(lengths, vocabulary_size=size, end=END, seed=seed)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [3, 11, 60])
def test_each_tokens_likelihood_equals_the_slow_reference(order: int, size: int) -> None:
    training, test = corpus(1, [40, 25, 7, 60, 1], size), corpus(2, [30, 1, 2, 3], size)
    model, slow = KneserNey(training, order=order, vocabulary_size=size, boundary=END), Slow(training, order, size)
    for document in (*test, *training):
        np.testing.assert_allclose(model.nll(document), slow.nll(document), rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_sum_to_one_after_seen_and_unseen_contexts(order: int) -> None:
    size = 13
    training = corpus(3, [50, 30], 9)  # ids 9 to 12 never occur
    model = KneserNey(training, order=order, vocabulary_size=size, boundary=END)
    seen, unseen = training[0][5:7], np.array([12, 11])
    for context in (seen, unseen, np.array([12, seen[-1]]), np.array([END, END])):
        total = sum(math.exp(-model.nll(np.append(context, token))[-1]) for token in range(size))
        assert total == pytest.approx(1.0, abs=1e-12)


def test_every_token_has_a_probability_above_zero() -> None:
    model = KneserNey(corpus(3, [50], 5), order=3, vocabulary_size=1000, boundary=END)
    assert np.isfinite(model.nll(np.arange(1000))).all()


def test_equally_frequent_tokens_make_the_unigram_uniform() -> None:
    model = KneserNey([np.tile(np.arange(8), 5)], order=1, vocabulary_size=8, boundary=END)
    np.testing.assert_allclose(model.nll(np.arange(8)), math.log(8), rtol=1e-12)


def test_after_an_unseen_context_of_equal_continuations_the_bigram_is_uniform() -> None:
    cycle = np.tile(np.arange(1, 5), 6)  # each token follows one other, and the start is followed by 1
    model = KneserNey([cycle, np.array([2]), np.array([3]), np.array([4])], order=2, vocabulary_size=6, boundary=END)
    probability = np.exp(-np.array([model.nll(np.array([5, token]))[1] for token in range(1, 5)]))
    np.testing.assert_allclose(probability, probability[0], rtol=1e-12)


def test_a_longer_order_predicts_a_deterministic_text_better() -> None:
    text = [np.tile([1, 2, 1, 3], 30)]
    losses = [KneserNey(text, order=n, vocabulary_size=4, boundary=END).nll(text[0]).mean() for n in (1, 2, 3)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.1


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_corpus_of_a_single_token_is_no_special_case(order: int) -> None:
    model = KneserNey([np.array([2])], order=order, vocabulary_size=4, boundary=END)
    slow = Slow([np.array([2])], order, 4)
    for document in (np.array([2]), np.array([1]), np.array([2, 2, 3])):
        np.testing.assert_allclose(model.nll(document), slow.nll(document), rtol=1e-12)


def test_the_largest_ids_do_not_overflow() -> None:
    size = 2**20  # 2**60 trigrams
    training = [np.array([size - 1, size - 2, size - 1, size - 1, END])]
    model, slow = KneserNey(training, order=3, vocabulary_size=size, boundary=END), Slow(training, 3, size)
    np.testing.assert_allclose(model.nll(training[0]), slow.nll(training[0]), rtol=1e-12)


def test_orders_that_do_not_fit_are_refused_with_the_key_to_change() -> None:
    with pytest.raises(ConfigError, match="baseline_order=4: 4-grams over 65536 tokens do not fit 64 bits; try 3"):
        KneserNey([np.array([1])], order=4, vocabulary_size=2**16, boundary=END)
    with pytest.raises(ValueError, match="order=0"):
        KneserNey([np.array([1])], order=0, vocabulary_size=4, boundary=END)
