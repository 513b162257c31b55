"""What `verify-resume` is to try: every stage and world as a run of its own, or a refusal before anything starts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError
from configs.folder import RunFolder
from configs.load import load
from configs.origin import find_origin
from configs.schema import RunConfig
from configs.world import micro_batches, on_world

USUAL_WORLDS = (1, 2, 4)


@dataclass(frozen=True)
class Plan:
    """All trainings of a verification; they differ in `world` alone."""

    runs: Mapping[tuple[int, int], RunConfig]
    """By ZeRO stage and ranks; those of `reference_world` too, whether or not it is among `worlds`"""
    stages: Sequence[int]
    worlds: Sequence[int]
    reference_world: int
    steps: int
    """After this step checkpoints are compared"""
    every_steps: int
    """Steps between two checkpoints; divides `steps`"""
    kills: int
    seed: int
    """Of the moments of the kills"""
    tolerance: float
    """Largest relative difference on a world that is not the reference's"""
    notes: Sequence[str]
    """What is not as in the user's configuration"""


def build_plan(
    words: Sequence[str],
    *,
    runs: Path,
    stages: Sequence[int] | None,
    worlds: Sequence[int] | None,
    steps: int,
    kills: int,
    seed: int,
    tolerance: float,
) -> Plan:
    """`words` are CONFIG.yaml [OVERLAY.yaml ...] [key.path=value ...]; stages and worlds default to the run's own,
    the latter with those of 1, 2 and 4 ranks that keep its global batch. `runs` is where a run that `init_from` names
    is sought.

    Raises ConfigError for a world that cannot keep the batch, a stage that the run cannot have, or too few steps.
    """
    run = load(words)
    steps = min(steps, run.train.steps)
    every_steps = saving_interval(steps)
    room = range(every_steps + 1, steps)
    if len(room) < kills:
        raise ConfigError(
            f"{kills} kills between the first checkpoint (step {every_steps}) and step {steps} do not fit; "
            "give more --steps or fewer --kills"
        )
    own = run.world.processes
    chosen = tuple(dict.fromkeys(worlds or (own, *(n for n in USUAL_WORLDS if keeps_batch(run, n)))))
    micro = shared_micro_batch(run, (own, *chosen))
    notes = [
        f"stopped after step {steps} of {run.train.steps} and saved every {every_steps}; the schedule is the run's"
    ]
    if micro != run.world.micro_batch_samples:
        notes.append(
            f"world.micro_batch_samples is {micro}, not {run.world.micro_batch_samples}, so that every world cuts the "
            "batch alike"
        )
    changed = {
        "world.micro_batch_samples": micro,
        "world.restarts": 0,
        "train.log_every_steps": 1,
        "train.validate_every_steps": run.train.steps,
        "train.validate_every_s": "null",
        "train.early_stopping": "null",
        "train.result": "last",
        "train.checkpoint": f"{{every_steps: {every_steps}, permanent_every_steps: {steps}, best: null}}",
        "wandb.mode": "disabled",
    }
    if origin := find_origin(run, RunFolder(runs / run.name)):
        changed["task.model.init_from"] = origin.resolve()
    levels = tuple(dict.fromkeys(stages or (run.world.zero.stage,)))
    trainings = {}
    for stage in levels:
        for world in dict.fromkeys((own, *chosen)):
            here = changed | {"world.zero.stage": stage, "world.processes": world}
            try:
                trainings[stage, world] = load([*words, *(f"{key}={value}" for key, value in here.items())])
            except ConfigError as error:
                raise ConfigError(f"stage {stage} on {world} ranks: {error}") from None
    return Plan(trainings, levels, chosen, own, steps, every_steps, kills, seed, tolerance, notes)


def saving_interval(steps: int) -> int:
    """The largest divisor of `steps` that leaves room for four checkpoints."""
    return next(each for each in range(max(1, steps // 4), 0, -1) if steps % each == 0)


def keeps_batch(run: RunConfig, world: int) -> bool:
    """Whether the global batch can be shared out evenly over so many ranks."""
    try:
        on_world(run, world)
    except ConfigError:
        return False
    return True


def shared_micro_batch(run: RunConfig, worlds: Iterable[int]) -> int:
    """The largest micro-batch, up to the run's own, with which every world computes the same micro-batches.

    Dropout, noise and the statistics of batch norms are drawn or taken once per micro-batch: with other micro-batches
    the losses would be others, and prove nothing. Raises ConfigError, naming the worlds that keep the global batch.
    """
    if run.world.micro_batch_samples == "auto":
        raise ConfigError(
            "world.micro_batch_samples=auto may be found differently on each world; give a number, such as "
            "world.micro_batch_samples=1"
        )
    worlds = list(worlds)
    shared = set.intersection(*(set(micro_batches(on_world(run, world))) for world in worlds))
    if not shared:
        raise ConfigError(
            f"no micro-batch divides train.global_batch_samples={run.train.global_batch_samples} on all of "
            f"{', '.join(map(str, worlds))} ranks and keeps the rules of the task; try fewer --worlds at once"
        )
    return max(shared)
