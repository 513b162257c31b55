"""The classifier of texts: what it reads, its loss and its sums."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from configs.dataset import TrainedTokenizer
from configs.errors import DamageError, DataError
from configs.language import DecoderConfig, EncoderConfig, SequenceClassificationConfig
from data.manifest import Manifest, Split, TokenizerRecord
from data.vocabulary import special_ids, train_tokenizer
from trainer.distributed import add, seed_all
from trainer.models.attention import PADDING
from trainer.task import Sample
from trainer.tasks.sequence_classification import SequenceClassification

CLASS, END, BLOCK = 2, 3, 10
CLASSES = ("comedy", "history", "tragedy")
COUNTS = {"comedy": 2, "history": 6, "tragedy": 4}
SHAPE: dict[str, Any] = {"num_layers": 1, "width": 16, "num_heads": 2}


def vocabulary() -> tuple[Tokenizer, TokenizerRecord]:
    config = TrainedTokenizer(kind="word", vocabulary_size=30, special="masked")
    tokenizer = train_tokenizer(["the genre of this text is sad or glad or neither"], config)
    record = TokenizerRecord(
        file="tokenizer.json",
        sha256="0" * 64,
        vocabulary_size=tokenizer.get_vocab_size(),
        end_of_document="[SEP]",
        end_of_document_id=END,
        special=special_ids(tokenizer, config),
    )
    return tokenizer, record


def about(**changes: Any) -> Manifest:
    split = Split(documents=12, bytes=1, samples=12, shards=(), classes=COUNTS)
    fields = {"tokenizer": vocabulary()[1], "block_tokens": BLOCK, "classes": CLASSES, "splits": {"train": split}}
    return Manifest.model_construct(**(fields | changes))


def build(
    manifest: Manifest | None = None, tokenizer: Tokenizer | None = None, **config: Any
) -> SequenceClassification:
    model = config.pop("model", None) or EncoderConfig(kind="encoder", **SHAPE)
    return SequenceClassification(
        SequenceClassificationConfig(kind="sequence_classification", model=model, **config),
        manifest or about(),
        tokenizer,
    )


def sample(ids: Any, label: int = 0, number: int = 0) -> Sample:
    """The ids after the token that the data puts before each document."""
    return {"id": number, "position": number, "tokens": np.array([CLASS, *ids], dtype="<u2"), "label": label}


def test_a_batch_holds_the_class_token_and_the_text_padded_to_the_longest() -> None:
    batch = build().collate([sample([6, 7, END], 1, 4), sample([8], 2, 9)])
    assert batch.tensors["tokens"].tolist() == [[CLASS, 6, 7, END], [CLASS, 8, 0, 0]]
    assert batch.tensors["documents"].tolist() == [[0, 0, 0, 0], [0, 0, PADDING, PADDING]]
    assert batch.tensors["labels"].tolist() == [1, 2]
    assert (batch.count, batch.ids) == (2, (4, 9))
    assert "documents" not in build().collate([sample([6]), sample([7])]).tensors


def test_the_prompt_stands_before_the_text_and_the_text_is_what_is_cut() -> None:
    tokenizer, _ = vocabulary()
    task = build(tokenizer=tokenizer, prompt="the genre of this text is")
    prompt = [tokenizer.token_to_id(word) for word in "the genre of this text is".split()]  # noqa: SIM905
    long, short = task.collate([sample(range(5, 16)), sample([7, END])]).tensors["tokens"].tolist()
    assert long == [CLASS, *prompt, 5, 6, 7]
    assert short == [CLASS, *prompt, 7, END, 0]


def test_without_a_prompt_the_text_is_cut_at_the_context() -> None:
    (row,) = build().collate([sample(range(5, 15))]).tensors["tokens"].tolist()
    assert row == [CLASS, *range(5, 14)]


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    tokenizer, _ = vocabulary()
    with pytest.raises(DataError, match=r"task.prompt has 9 tokens, which .* leave 0 of data.block_tokens=10"):
        build(tokenizer=tokenizer, prompt="the genre of this text is sad or glad")


@pytest.mark.parametrize("classes", [(), ("comedy",)])
def test_texts_without_two_classes_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"needs texts of at least 2 classes, the data has (none|comedy); name"):
        build(about(classes=classes))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_damage(label: int) -> None:
    with pytest.raises(DamageError, match=rf"sample 7 has label {label}, the data has 3 classes"):
        build().collate([sample([6], label, 7)])


class Fixed:
    """Logits given by the row's second token."""

    def __init__(self) -> None:
        self.table = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))

    def __call__(self, tokens: Tensor, targets: Tensor | None = None, documents: Tensor | None = None) -> Tensor:
        return self.table[tokens[:, 1]]


def test_loss_is_the_sum_of_smoothed_and_weighted_cross_entropies() -> None:
    task, model = build(label_smoothing=0.1, class_weights="inverse_frequency"), Fixed()
    labels = [0, 1, 2, 1]
    loss, scalars = task.loss("model", {"model": model}, task.collate([sample([5 + n], n) for n in labels]))
    logits = model.table[[5, 6, 7, 6]]
    weights = [12 / (3 * COUNTS[CLASSES[label]]) for label in labels]
    each = [
        weight * F.cross_entropy(row, torch.tensor(label), label_smoothing=0.1)
        for weight, row, label in zip(weights, logits, labels, strict=True)
    ]
    assert float(loss) == pytest.approx(float(sum(each)), rel=1e-6)
    assert int(scalars["accuracy"]) == int((logits.argmax(1) == torch.tensor(labels)).sum())
    assert sum(weight * COUNTS[name] for weight, name in zip((2.0, 2 / 3, 1.0), CLASSES, strict=True)) == 12


@pytest.mark.parametrize(
    ("kind", "pooling"), [("encoder", "first"), ("encoder", "mean"), ("decoder", "last"), ("decoder", "mean")]
)
def test_sums_of_a_batch_are_those_of_its_texts_one_by_one(kind: str, pooling: str) -> None:
    shape = {"encoder": EncoderConfig, "decoder": DecoderConfig}[kind](kind=kind, **SHAPE)  # type: ignore[arg-type]
    task = build(model=shape, pooling=pooling)
    samples = [sample(range(5, 5 + length), length % 3, length) for length in (1, 9, 4)]
    seed_all(0)
    nets = {name: network.eval() for name, network in task.networks().items()}
    with torch.inference_mode():
        whole = task.evaluate(nets, task.collate(samples))
        sums: dict[str, Any] = {}
        for each in samples:
            sums = add(sums, task.evaluate(nets, task.collate([each])))
    assert set(sums) == set(whole)
    for name, value in whole.items():
        assert float(sums[name]) == pytest.approx(float(value), rel=1e-5), name
    assert set(task.metrics({name: float(value) for name, value in whole.items()})) == {
        "loss",
        "accuracy",
        "balanced_accuracy",
        "f1_macro",
    }
