"""Ranks that train a small transformer, sharing sequences or matrices, and go on from a checkpoint of another layout.

`python -m torch.distributed.run ... tests/parallel_worker.py FOLDER NAME PARTS SLICES STAGES [OTHER ...]`: for each
stage rank 0 leaves in FOLDER/NAME.json the losses and gradient norms of 8 updates, half of them after a checkpoint,
which other layouts may go on from; and for the first stage the losses after the checkpoints of OTHER layouts.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from configs.schema import RunConfig
from tests.tiny import checkpoints, tiny_run
from trainer.checkpoint import TrainState
from trainer.distributed import World
from trainer.engines import Engine
from trainer.evaluation.score import score
from trainer.models.cross_entropy import IGNORE
from trainer.models.heads import LanguageHead
from trainer.models.transformer import Transformer
from trainer.task import Batch, Networks, Sums

VOCABULARY, TOKENS, BATCH, MICRO, SAVED, UPDATES = 16, 16, 8, 2, 4, 8
MODEL = "{kind: decoder, num_layers: 2, width: 32, num_heads: 4, num_kv_heads: 4, norm: rms_norm, activation: swiglu}"


class Likelihood:
    """What `score` asks of a task."""

    def evaluate(self, nets: Networks, batch: Batch) -> Sums:
        return {"nll": nets["model"](batch.tensors["tokens"], batch.tensors["targets"]).sum().double()}


def run_as(stage: int, parts: int, slices: int, ranks: int) -> RunConfig:
    return tiny_run(
        world__processes=ranks,
        world__sequence_parallel=parts,
        world__tensor_parallel=slices,
        world__micro_batch_samples=MICRO,
        world__zero=f"{{stage: {stage}}}",
        world__recompute="true",
        train__global_batch_samples=BATCH,
        train__ema="{decay: 0.9}",
        task__model=MODEL,
    )


def build(run: RunConfig, world: World, seed: int) -> Engine:
    torch.manual_seed(seed)
    shape = run.task.model
    head = LanguageHead(shape, vocabulary_size=VOCABULARY)  # type: ignore[arg-type]  # a decoder's shape
    network = Transformer(shape, vocabulary_size=VOCABULARY, context_tokens=TOKENS, head=head)  # type: ignore[arg-type]
    return Engine(network, run, world)


def draw(step: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """A micro-batch: tokens, targets, two documents in each sequence; every other step shorter than the context."""
    generator = torch.Generator().manual_seed(1000 * step + number)
    tokens = torch.randint(0, VOCABULARY, (MICRO, TOKENS - step % 2 + 1), generator=generator)
    tokens[:, 2::2] = (tokens[:, 1:-1:2] * 3 + 1) % VOCABULARY
    targets = tokens[:, 1:].clone()
    targets[:, -3:] = IGNORE
    documents = (torch.arange(tokens.shape[1] - 1) >= 5).long().expand(MICRO, -1)
    return tokens[:, :-1], targets, documents


def update(engine: Engine, run: RunConfig, world: World, step: int) -> tuple[float, float]:
    """One update on sequences that the step decides; returns the mean loss over all ranks and the gradient norm."""
    micro = [draw(step, i * world.replicas + world.replica) for i in range(run.accumulation)]
    terms = world.slices * BATCH * int((micro[0][1][0] != IGNORE).sum())
    total, norm = torch.zeros(()), None
    for tokens, targets, documents in micro:
        loss = engine(tokens, targets, documents).sum()
        engine.backward(loss * (world.size * run.accumulation / terms))
        norm = engine.step(3e-3, step)
        total += loss.detach() / terms
    assert norm is not None
    return float(world.sum(total)), float(norm)


def averaged_score(engine: Engine, world: World) -> float:
    """The averaged network's loss on two micro-batches for each rank that reads samples of its own."""
    readers = world.size // world.slices
    mine = range(world.rank // world.slices, 4, readers)
    batches = [Batch(dict(zip(("tokens", "targets"), draw(0, n)[:2], strict=True)), 1, (n,)) for n in mine]
    with engine.averaged():
        return score(Likelihood(), {"model": engine.module}, batches, world)["nll"]  # type: ignore[arg-type]


def main(folder: Path, name: str, parts: int, slices: int, stages: list[int], others: list[str]) -> None:
    ranks = int(os.environ["WORLD_SIZE"])
    world = World.join(run_as(stages[0], parts, slices, ranks).world)
    told: dict[str, object] = {}
    for stage in stages:
        run = run_as(stage, parts, slices, ranks)
        engine = build(run, world, seed=0)
        figures = [update(engine, run, world, step) for step in range(SAVED)]
        if stage == stages[0]:
            saved = checkpoints(folder / name, {}, world)
            saved.save({"model": engine}, TrainState(SAVED, 0, "00"), {})
            saved.wait()
        figures += [update(engine, run, world, step) for step in range(SAVED, UPDATES)]
        told[str(stage)] = {"figures": figures, "score": averaged_score(engine, world), "size": engine.size}
    for other in others:
        run = run_as(stages[0], parts, slices, ranks)
        engine = build(run, world, seed=1)
        checkpoints(folder / other, {}, world).load(SAVED, {"model": engine})
        figures = [update(engine, run, world, step) for step in range(SAVED, UPDATES)]
        told[f"after {other}"] = {"figures": figures, "score": averaged_score(engine, world)}
    if world.rank == 0:
        (folder / f"{name}.json").write_text(json.dumps(told))
    dist.barrier()


if __name__ == "__main__":
    _, home, layout, along, across, levels, *rest = sys.argv
    main(Path(home), layout, int(along), int(across), [int(level) for level in levels.split(",")], rest)
