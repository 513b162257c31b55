"""Ranks that train a small transformer at every ZeRO stage, save it, and go on from every stage's checkpoint.

`python -m torch.distributed.run ... tests/zero_worker.py FOLDER STEPS PRECISION`; rank 0 leaves FOLDER/losses.json.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from configs.schema import RunConfig
from tests.tiny import checkpoints, tiny_run
from trainer.checkpoint import TrainState
from trainer.distributed import World, seed_all
from trainer.engines import Engine
from trainer.models.cross_entropy import IGNORE
from trainer.models.heads import LanguageHead
from trainer.models.transformer import Transformer

VOCABULARY, TOKENS, BATCH, MICRO, LATER = 16, 16, 16, 4, 4
STAGES = (0, 1, 2, 3)


def run_at(stage: int, precision: str, size: int) -> RunConfig:
    return tiny_run(
        world__processes=size,
        world__micro_batch_samples=MICRO,
        train__global_batch_samples=BATCH,
        train__ema="{decay: 0.9}",
        train__precision=precision,
        task__model__dropout=0.1,
        world__zero=f"{{stage: {stage}}}",
    )


def build(run: RunConfig, world: World, seed: int) -> Engine:
    torch.manual_seed(seed)
    shape = run.task.model
    head = LanguageHead(shape, vocabulary_size=VOCABULARY)  # type: ignore[arg-type]  # a decoder's shape
    return Engine(
        Transformer(shape, vocabulary_size=VOCABULARY, context_tokens=TOKENS, head=head),  # type: ignore[arg-type]
        run,
        world,
    )


def update(engine: Engine, run: RunConfig, world: World, step: int) -> float:
    """One update on sequences that the step decides; returns the mean loss over all ranks."""
    total = torch.zeros(())
    for i in range(run.accumulation):
        number = i * world.size + world.rank
        generator = torch.Generator().manual_seed(1000 * step + number)
        tokens = torch.randint(0, VOCABULARY, (MICRO, TOKENS + 1), generator=generator)
        tokens[:, 1::2] = (tokens[:, 0::2][:, : TOKENS // 2] * 3 + 1) % VOCABULARY
        seed_all(run.seed, step, number)
        loss = engine(tokens[:, :-1], tokens[:, 1:].contiguous()).sum()
        engine.backward(loss * (world.size * run.accumulation / (BATCH * TOKENS)))
        engine.step(3e-3, step)
        total += loss.detach() / (BATCH * TOKENS)
    return float(world.sum(total))


@torch.no_grad()
def averaged_score(engine: Engine) -> float:
    """The averaged network's loss on one sequence."""
    with engine.averaged():
        engine.module.eval()
        tokens = torch.arange(TOKENS)[None]
        score = engine.module(tokens, tokens).sum().item()
        engine.module.train()
    return score


@torch.no_grad()
def scores(engine: Engine, world: World) -> list[float]:
    """What an evaluation asks of the head, summed over the ranks: one scores a few tokens, the others none."""
    engine.module.eval()
    tokens = torch.arange(TOKENS)[None]
    targets = torch.full_like(tokens, IGNORE)
    if world.rank == 0:
        targets[0, -5:] = torch.arange(5)
    found = world.sum(engine.module(tokens, targets, scores=True).sum((0, 1)))
    likelihood = world.sum(engine.module(tokens, targets).sum())
    engine.module.train()
    return [float(likelihood), *found.tolist()]


def main(folder: Path, steps: int, precision: str) -> None:
    world = World.join(run_at(0, precision, 1).world)
    told: dict[str, dict[str, object]] = {}
    for stage in STAGES:
        run = run_at(stage, precision, world.size)
        engine = build(run, world, seed=0)
        losses = [update(engine, run, world, step) for step in range(steps)]
        saved = checkpoints(folder / str(stage), {}, world)
        saved.save({"model": engine}, TrainState(steps, 0, "00"), {})
        after = [update(engine, run, world, step) for step in range(steps, steps + LATER)]
        told[str(stage)] = {"losses": losses, "later": after, "average": averaged_score(engine)}
        told[str(stage)] |= {"scores": scores(engine, world)}
    for stage in STAGES:
        for source in STAGES:
            run = run_at(stage, precision, world.size)
            engine = build(run, world, seed=1)
            checkpoints(folder / str(source), {}, world).load(steps, {"model": engine})
            resumed = [update(engine, run, world, step) for step in range(steps, steps + LATER)]
            told[f"{source} to {stage}"] = {"later": resumed, "average": averaged_score(engine)}
    if world.rank == 0:
        (folder / "losses.json").write_text(json.dumps(told))
    dist.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
