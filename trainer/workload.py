"""What a step of a run takes, for the meter: samples, tokens, and the operations of its networks."""

from typing import Any

from configs.folder import RunFolder, write_json
from configs.schema import RunConfig
from configs.stages import read_record, train_key
from data.manifest import Manifest
from trainer.distributed import World
from trainer.hardware import peak_of
from trainer.meter import Workload
from trainer.profile.counting import enlarge, shapes_only, training_flops
from trainer.profile.plan import DRAWN, prepare
from trainer.profile.sketch import draw_samples
from trainer.task import Batch, Task


def workload_of(run: RunConfig, task: Task, manifest: Manifest, world: World, folder: RunFolder) -> Workload:
    """The workload on this world. Operations are counted where the devices' peak is known, and on rank 0, which logs.

    Counting takes seconds, so the number stays in the run's folder.
    """
    peak = peak_of(world.device, run.train.precision)
    flops = remembered_flops(run, task, manifest, folder) if peak and world.rank == 0 else None
    even = getattr(run.data, "packing", "") != "document"
    return Workload(
        samples_per_step=run.train.global_batch_samples,
        tokens_per_sample=(manifest.block_tokens or None) if even else None,
        flops_per_sample=flops,
        peak_flops=peak * world.size if peak else None,
    )


def remembered_flops(run: RunConfig, task: Task, manifest: Manifest, folder: RunFolder) -> int | None:
    """`count_flops`, kept in `train/flops.json` for the next start."""
    path = folder.train / "flops.json"
    made_of = {"config": train_key(run), "data": manifest.digest}
    if path.exists() and (record := read_record(path)).items() >= made_of.items():
        return record["flops_per_sample"]
    record: dict[str, Any] = made_of | {"flops_per_sample": count_flops(run, task, manifest)}
    write_json(path, record)
    return record["flops_per_sample"]


def count_flops(run: RunConfig, task: Task, manifest: Manifest) -> int | None:
    """Operations of a sample's forward and backward pass, without what recomputation repeats.

    None where samples differ in size: images that grow as training goes on, and documents as long as they are.
    """
    end = run.train.steps * run.train.global_batch_samples
    first, last = (task.collate(draw_samples(run, manifest, range(at, at + DRAWN))) for at in (0, end - DRAWN))
    if getattr(run.data, "packing", "") == "document" or shapes(first) != shapes(last):
        return None
    with shapes_only():
        nets = task.networks()
        prepare(nets, task, run, recompute=False)
        return training_flops(task, nets, enlarge(last, DRAWN)) // DRAWN


def shapes(batch: Batch) -> dict[str, tuple[int, ...]]:
    """Of a sample, but for how many there are."""
    return {name: tuple(tensor.shape[1:]) for name, tensor in batch.tensors.items()}
