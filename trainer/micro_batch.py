"""`world.micro_batch_samples: auto`: the most samples per forward that fit, chosen once for a world and a device."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from configs.errors import ConfigError
from configs.folder import RunFolder, write_json
from configs.schema import RunConfig
from configs.stages import read_record
from configs.world import micro_batches, with_micro_batch
from data.card.display import size
from data.manifest import Manifest
from data.progress import say
from trainer.distributed import World
from trainer.profile.counting import activations, enlarge, shapes_only, turn_alone
from trainer.profile.memory import Memory, holdings, predict_memory
from trainer.profile.plan import draw_batch, prepare
from trainer.task import Batch, Task

FILLED = 0.9
"""Share of the free memory that is planned with: allocators leave gaps, and kernels ask for work space"""


def choose_micro_batch(run: RunConfig, task: Task, manifest: Manifest, folder: RunFolder, world: World) -> RunConfig:
    """The run with a number where its micro-batch is auto. All ranks call, and get the same.

    The number is remembered beside the checkpoints, so that a restart on the same world and device repeats its
    arithmetic. Uses up random numbers: seed after it. Raises ConfigError where not even the smallest fits.
    """
    if run.world.micro_batch_samples != "auto":
        return run
    record, needs = folder.train / "micro_batch.json", conditions(run, world.device)
    chosen = int(world.gather([recall(record, needs) if world.rank == 0 else 0])[0, 0])
    if not chosen:
        mine = largest_fitting(micro_batches(run), lambda micro: fits(run, task, manifest, world, micro))
        chosen = int(world.gather([mine]).min())
        if not chosen:
            raise ConfigError(too_large(run, world.device))
        if world.rank == 0:
            remember(record, needs, chosen)
    found = with_micro_batch(run, chosen)
    if world.rank == 0:
        share = run.train.global_batch_samples // run.replicas
        say("train", f"micro-batches of {chosen} samples, {found.accumulation} per step: {share} per replica, auto")
    return found


def largest_fitting(sizes: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The largest size that fits, 0 where none does; a size below one that fits does too."""
    rising = sorted(sizes)
    below, above = 0, len(rising)
    while below < above:
        middle = (below + above) // 2
        below, above = (middle + 1, above) if fits(rising[middle]) else (below, middle)
    return rising[below - 1] if below else 0


def fits(run: RunConfig, task: Task, manifest: Manifest, world: World, micro: int) -> bool:
    """Whether this rank's device, and machine, hold a training in micro-batches of this size.

    Activations are measured on a GPU that holds the whole network, else told from shapes, as is all the rest.
    """
    device = world.device
    there = with_micro_batch(run, micro)
    there = there.model_copy(update={"world": there.world.model_copy(update={"device": device.type})})
    batch = draw_batch(run, task, manifest)
    with shapes_only():
        nets = task.networks()
        prepare(nets, task, there, recompute=there.world.recompute)
        peak = activations(task, nets, enlarge(batch, micro), precision=run.train.precision).peak_bytes
        all_of = holdings(nets, task, there)
    if device.type == "cuda" and run.world.zero.stage < 3 and world.parts * world.slices == 1:
        measured = measure(task, there, enlarge(batch, micro), device)
        if measured is None:
            return False
        peak = max(peak, measured)
    return has_room(predict_memory(all_of, there, peak), device)


def has_room(memory: Memory, device: torch.device) -> bool:
    """Whether what is predicted is less than what is free; on a CPU the host's memory is the device's."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    host = FILLED * free_host_bytes() / ranks
    if device.type == "cpu":
        return memory.total + memory.host <= host
    free, _ = torch.cuda.mem_get_info(device)
    return memory.total <= FILLED * free and memory.host <= host


def measure(task: Task, run: RunConfig, batch: Batch, device: torch.device) -> int | None:
    """Bytes that a pass of each turn takes beside weights and gradients, at its fullest; None where they are not there.

    The networks are fresh and dropped again.
    """
    nets: dict[str, nn.Module] = {}
    try:
        nets = {name: net.to(device) for name, net in task.networks().items()}
        prepare(nets, task, run, recompute=run.world.recompute)
        for net in nets.values():
            for parameter in net.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(run.train.precision)
        for turn in task.turns:
            with turn_alone(nets, turn, task.turns):
                with torch.autocast(device.type, kind, enabled=kind is not None):
                    loss, _ = task.loss(turn, nets, batch.to(device))
                loss.backward()
        return torch.cuda.max_memory_allocated(device) - before
    except torch.OutOfMemoryError:
        return None
    finally:
        nets.clear()
        torch.cuda.empty_cache()


def conditions(run: RunConfig, device: torch.device) -> dict[str, Any]:
    """What decides how much fits, but for the run itself, of which a folder has one."""
    fields = {"processes", "zero", "tensor_parallel", "sequence_parallel", "compile", "recompute", "channels_last"}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name, room = properties.name, properties.total_memory
    else:
        name, room = "cpu", host_bytes()
    world = run.world.model_dump(mode="json", include=fields)
    return {"world": world, "deepspeed": run.deepspeed, "device": name, "device_bytes": room}


def recall(record: Path, needs: dict[str, Any]) -> int:
    """The number chosen before under the same conditions, or 0. Raises DamageError for a file that is no record."""
    if not record.exists():
        return 0
    choices = read_record(record).get("choices", [])
    return next((int(each["micro_batch_samples"]) for each in choices if each["needs"] == needs), 0)


def remember(record: Path, needs: dict[str, Any], chosen: int) -> None:
    """Add a choice to those of other worlds and devices."""
    before = read_record(record)["choices"] if record.exists() else []
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, {"choices": [*before, {"needs": needs, "micro_batch_samples": chosen}]})


def too_large(run: RunConfig, device: torch.device) -> str:
    """What to say where nothing fits."""
    sizes, free = micro_batches(run), free_host_bytes()
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    least = f"micro-batches of {sizes[-1]} samples do not fit" if sizes else "no size keeps the rules of the task"
    ways = ["world.recompute=true"] * (not run.world.recompute)
    ways += [f"world.zero.stage={stage}" for stage in (2, 3) if stage > run.world.zero.stage]
    return (
        f"world.micro_batch_samples=auto: {least}, {size(free)} are free on this rank's {device.type}; try "
        f"{', '.join(ways) or 'more ranks'}, and see `trainworks profile`"
    )


def host_bytes() -> int:
    """Memory of this machine or, where there is a limit, of this container."""
    limits = [limit for limit, _ in _container()]
    return min([_machine("MemTotal"), *limits])


def free_host_bytes() -> int:
    """What of it can still be had."""
    return min([_machine("MemAvailable"), *(limit - used for limit, used in _container())])


def _machine(entry: str) -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:"))


def _container(root: Path = Path("/sys/fs/cgroup")) -> list[tuple[int, int]]:
    """The limit of this control group and what is used of it, without files that can be dropped; versions 2 and 1."""
    for limit, used, cache in (
        (root / "memory.max", root / "memory.current", "inactive_file"),
        (root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        if not limit.exists() or not (word := limit.read_text(encoding="ascii").strip()).isdigit():
            continue
        entries = dict(line.split() for line in (used.parent / "memory.stat").read_text("ascii").splitlines())
        return [(int(word), int(used.read_text(encoding="ascii")) - int(entries.get(cache, 0)))]
    return []
