"""A run on the ranks that there are, whatever number it was written for: the global batch stays as it is."""

from configs import engine_rules, rules
from configs.errors import ConfigError
from configs.load import validate
from configs.schema import RunConfig


def on_world(run: RunConfig, processes: int) -> RunConfig:
    """The same run on another number of ranks: accumulation changes or, where that is not enough, the micro-batch.

    The micro-batch is the largest that divides what each replica reads per step and is no larger than it was; `auto`
    stays so. Raises ConfigError with the numbers of ranks that can, where this one cannot.
    """
    if processes == run.world.processes:
        return run
    if sizes := _sizes_on(run, processes):
        micro = "auto" if run.world.micro_batch_samples == "auto" else sizes[0]
        return _changed(run, {"processes": processes, "micro_batch_samples": micro})
    world, most = run.world, 4 * max(processes, run.world.processes)
    able = [n for n in range(1, most + 1) if _sizes_on(run, n)]
    near = sorted(sorted(able, key=lambda n: abs(n - processes))[:8])
    raise ConfigError(
        f"{processes} ranks cannot share train.global_batch_samples={run.train.global_batch_samples} with "
        f"world.tensor_parallel={world.tensor_parallel}, world.sequence_parallel={world.sequence_parallel} and "
        f"world.zero.partition_group={world.zero.partition_group or 'none'}; numbers of ranks that can: "
        f"{', '.join(map(str, near)) or 'none'}"
    )


def micro_batches(run: RunConfig) -> list[int]:
    """The micro-batches that a replica's share of the global batch can be cut into, largest first, rules kept.

    Those up to `world.micro_batch_samples`, or all where that is auto.
    """
    share, most = run.train.global_batch_samples // run.replicas, run.world.micro_batch_samples
    most = share if most == "auto" else most
    sizes = [size for size in range(min(most, share), 0, -1) if share % size == 0]
    return [size for size in sizes if _keeps_rules(run, size)]


def with_micro_batch(run: RunConfig, samples: int) -> RunConfig:
    """The same run in micro-batches of this size. Raises ConfigError where a rule forbids it."""
    return _changed(run, {"micro_batch_samples": samples})


def _sizes_on(run: RunConfig, processes: int) -> list[int]:
    """The micro-batches that so many ranks could read; none where their number does not fit."""
    shared = run.world.tensor_parallel * run.world.sequence_parallel
    if processes % shared or run.train.global_batch_samples % (processes // shared):
        return []
    world = run.world.model_copy(update={"processes": processes})
    return [] if engine_rules.partition_group_divides(world) else micro_batches(run.model_copy(update={"world": world}))


def _keeps_rules(run: RunConfig, micro: int) -> bool:
    cut = run.model_copy(update={"world": run.world.model_copy(update={"micro_batch_samples": micro})})
    return not (rules.batch_divides(cut) or rules.pairs_stay_together(cut) or rules.batches_have_statistics(cut))


def _changed(run: RunConfig, world: dict[str, int | str]) -> RunConfig:
    tree = run.model_dump(mode="json")
    tree["world"] |= world
    return validate(tree)
