"""Case of the perplexity: our rolling windows against the strided loop that Hugging Face documents, same weights."""

import contextlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.families import MIB, peak_bytes
from benchmarks.harness import Case, Pair, Round, Stopwatch
from benchmarks.worker import worker
from configs.language import CausalLMConfig
from configs.presets import expand
from data.manifest import SCHEMA_VERSION, Manifest, TokenizerRecord
from data.packing import Ids
from trainer.checkpoint import load_weights
from trainer.distributed import World
from trainer.evaluation.windows import score_windows, windows_of
from trainer.interchange import read_tensors_for
from trainer.tasks.causal_lm import CausalLM

SIDE = f"{__name__}:Scoring"
THREADS = 1
LAYERS, WIDTH, HEADS = 4, 128, 4
"""Of the preset `laptop`, which a CPU trains; larger bodies weigh more beside the output layer"""
VOCABULARY, POSITIONS, STRIDE = 50257, 1024, 512
"""GPT-2's; the stride is the documented one"""
WINDOWS, BATCH_WINDOWS = 20, 1
"""One window at a time, as the peer's: more of them leave a core's cache"""
END = VOCABULARY - 1
CLOSE = 1e-5


def document() -> Ids:
    """One document that fills WINDOWS windows, the same for both sides; its last token ends it."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, END, POSITIONS + (WINDOWS - 1) * STRIDE - 1)
    ids[-1] = END
    return ids


class Scoring:
    """A side in its process, named in `side.json`: the mean negative log-likelihood of the document's tokens."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(THREADS)
        settings = json.loads((folder / "side.json").read_text(encoding="utf-8"))
        opened = {"ours": open_ours, "peer": open_peer}[settings["side"]]
        self.score: Callable[[], float] = opened(folder.parent / "weights")
        self.peak_bytes = peak_bytes(self.score)

    def round(self) -> Round:
        watch = Stopwatch()
        watch.start()
        loss = self.score()
        watch.stop()
        outputs = {"loss": loss, "peak_bytes": self.peak_bytes}
        return Round(len(document()), watch.seconds, watch.cpu_s, outputs)


def open_ours(weights: Path) -> Callable[[], float]:
    """What our evaluation does with a document, from its tokens on."""
    size = {"num_layers": LAYERS, "width": WIDTH, "num_heads": HEADS, "feed_forward_width": None, "dropout": 0.0}
    model = expand({"kind": "decoder", "preset": "gpt2-124m", **size})
    evaluation = {"stride_tokens": STRIDE, "batch_windows": BATCH_WINDOWS}
    config = CausalLMConfig.model_validate({"kind": "causal_lm", "model": model, "evaluation": evaluation})
    task = CausalLM(config, described(POSITIONS))
    network = task.networks()["model"].eval()
    load_weights(network, read_tensors_for(weights, network))
    documents, world = [document()], World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))

    def score() -> float:
        # a window of theirs holds POSITIONS tokens of which the first is context, so it predicts one fewer
        windows = windows_of(documents, tokens=POSITIONS - 1, stride=STRIDE)
        nets = {"model": network}
        nll, _ = score_windows(task, nets, windows, documents, end=END, batch_windows=BATCH_WINDOWS, world=world)
        return float(nll.sum()) / len(documents[0])

    return score


def described(block_tokens: int) -> Manifest:
    """As much of a data set as the task asks for."""
    tokenizer = TokenizerRecord(
        file="", sha256="", vocabulary_size=VOCABULARY, end_of_document="", end_of_document_id=END
    )
    return Manifest(
        schema_version=SCHEMA_VERSION,
        digest="",
        kind="text",
        config="",
        sources=(),
        tokenizer=tokenizer,
        block_tokens=block_tokens,
        fields=(),
        splits={},
        dropped={},
        checks={},
    )


def open_peer(weights: Path) -> Callable[[], float]:
    """https://huggingface.co/docs/transformers/perplexity: a batch of one, labels of -100 for what is context.

    The documented mean of the windows' means weighs their tokens unequally; here each counts once.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS)
    network: Any = GPT2LMHeadModel(config).eval()
    network.save_pretrained(weights)
    ids = torch.from_numpy(np.append(END, document()))[None]
    length = ids.shape[1]

    def score() -> float:
        total, predicted, before = 0.0, 0, 0
        for begin in range(0, length, STRIDE):
            end = min(begin + POSITIONS, length)
            inputs = ids[:, begin:end]
            labels = inputs.clone()
            labels[:, : before - begin] = -100
            scored = int((labels[:, 1:] != -100).sum())
            with torch.no_grad():
                total += network(inputs, labels=labels).loss.item() * scored
            predicted, before = predicted + scored, end
            if end == length:
                break
        return total / predicted

    return score


@contextlib.contextmanager
def _sides() -> Iterator[Pair]:
    """The peer opens first, and leaves its weights for ours."""
    with tempfile.TemporaryDirectory(prefix="trainworks-benchmark-") as name, contextlib.ExitStack() as stack:
        rounds: dict[str, Callable[[], Round]] = {}
        for side in ("peer", "ours"):
            folder = Path(name) / side
            folder.mkdir()
            (folder / "side.json").write_text(json.dumps({"side": side}), encoding="utf-8")
            rounds[side] = stack.enter_context(worker(SIDE, folder, Path(name) / f"{side}.log", threads=THREADS))
        yield Pair(rounds["ours"], rounds["peer"])


def differ(ours: Any, peer: Any) -> str | None:
    """What is wrong with ours: its loss, or its memory."""
    if not math.isclose(ours["loss"], peer["loss"], rel_tol=0, abs_tol=CLOSE):
        return f"the loss is {ours['loss']!r}, the peer's {peer['loss']!r}"
    if ours["peak_bytes"] > peer["peak_bytes"]:
        return f"the peak is {ours['peak_bytes'] / MIB:.1f} MiB, the peer's {peer['peak_bytes'] / MIB:.1f} MiB"
    return None


def memory(ours: Any, peer: Any) -> str:
    """The peaks of both, in words."""
    mine, other = ours["peak_bytes"] / MIB, peer["peak_bytes"] / MIB
    return f"peak memory of scoring: ours {mine:.1f} MiB, peer {other:.1f} MiB"


CASES = (
    Case(
        name="evaluation/perplexity",
        measures=f"rolling windows of {POSITIONS} tokens by {STRIDE} against transformers' documented loop, in fp32",
        unit="tokens/s",
        goal=3.0,
        libraries=("torch", "transformers"),
        open=_sides,
        check=differ,
        note=memory,
        clock="cpu_s",
    ),
)
