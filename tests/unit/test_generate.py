"""Sampling text: the masks against slow references, greedy and seeded continuations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from configs.language import SamplingConfig
from trainer.evaluation.generate import choose, generate, restrict

VOCABULARY, CONTEXT, END = 12, 5, 0


class Bigram(nn.Module):
    """Logits by the last token; refuses more than its context, and remembers the longest it saw."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table, self.longest = table, 0

    def forward(self, tokens: Tensor) -> Tensor:
        assert tokens.shape[0] == 1
        assert not self.training
        self.longest = max(self.longest, tokens.shape[1])
        return self.table[tokens]


def random_model(seed: int = 0) -> Bigram:
    return Bigram(torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed)))


def sampling(**fields: object) -> SamplingConfig:
    return SamplingConfig.model_validate({"prompts": ("x",), "max_tokens": 20} | fields)


def write(model: nn.Module, config: SamplingConfig, prompt: list[int], seed: int = 0, end: int = END) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return generate(model, prompt, config, context_tokens=CONTEXT, end=end, generator=generator)


def test_temperature_zero_takes_the_likeliest_each_time() -> None:
    model = random_model()
    expected, last = [], 3
    for _ in range(20):
        last = int(model.table[last].argmax())
        if last == END:
            break
        expected.append(last)
    assert len(expected) > 1
    assert write(model, sampling(temperature=0), [7, 3]) == expected


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-42])
def test_a_temperature_near_zero_is_greedy_and_not_an_overflow(temperature: float) -> None:
    model = random_model()
    greedy = write(model, sampling(temperature=0), [3])
    assert write(model, sampling(temperature=temperature), [3]) == greedy


def test_it_stops_at_the_end_token_which_is_not_part_of_the_text() -> None:
    table = torch.full((VOCABULARY, VOCABULARY), -20.0)
    for before, after in ((1, 2), (2, 3), (3, END)):
        table[before, after] = 20.0
    assert write(Bigram(table), sampling(), [1]) == [2, 3]
    assert write(Bigram(table), sampling(), [3]) == []


def test_it_stops_at_max_tokens_and_shows_the_model_no_more_than_its_context() -> None:
    model = random_model()
    written = write(model, sampling(max_tokens=17), [4] * 9, end=-1)
    assert len(written) == 17
    assert model.longest == CONTEXT


def test_the_same_seed_writes_the_same_text_and_another_seed_another() -> None:
    config, model = sampling(temperature=1.5), random_model()
    texts = [tuple(write(model, config, [3], seed, end=-1)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_sampling_follows_the_models_probabilities_at_the_temperature() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([choose(logits, sampling(temperature=0.7), generator) for _ in range(6000)])
    frequency = torch.bincount(draws, minlength=4) / len(draws)
    torch.testing.assert_close(frequency, (logits / 0.7).softmax(-1), atol=0.03, rtol=0)


LOGITS = st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True).map(lambda xs: [x / 10 for x in xs])


@settings(max_examples=60, deadline=None)
@given(logits=LOGITS, top_k=st.integers(1, 14))
def test_top_k_keeps_the_k_likeliest(logits: list[float], top_k: int) -> None:
    kept = restrict(torch.tensor(logits), top_k=top_k, top_p=1.0).isfinite().nonzero().flatten().tolist()
    ranked = sorted(range(len(logits)), key=lambda i: -logits[i])
    assert set(kept) == set(ranked[:top_k])


@settings(max_examples=60, deadline=None)
@given(logits=LOGITS, top_p=st.floats(0.01, 1.0))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits: list[float], top_p: float) -> None:
    restricted = restrict(torch.tensor(logits), top_k=None, top_p=top_p)
    kept = set(restricted.isfinite().nonzero().flatten().tolist())
    whole = math.fsum(math.exp(x) for x in logits)
    reference, mass, margin = set[int](), 0.0, 1.0
    for i in sorted(range(len(logits)), key=lambda i: -logits[i]):
        if mass >= top_p:
            break
        margin = min(margin, abs(mass - top_p)) if mass else margin
        reference.add(i)
        mass += math.exp(logits[i]) / whole
    if min(margin, abs(mass - top_p)) > 1e-6:  # else rounding decides
        assert kept == reference
    assert restricted[sorted(kept)].tolist() == torch.tensor(logits)[sorted(kept)].tolist()


def test_top_p_is_taken_of_what_top_k_left() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    kept = restrict(logits, top_k=2, top_p=0.5)  # 4/7 and 3/7 after top-k
    assert kept.isfinite().tolist() == [True, False, False, False]
