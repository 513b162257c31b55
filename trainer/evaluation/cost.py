"""What one pass through a trained model costs where it is evaluated: parameters, FLOPs, memory and time."""

import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from data.loader import sequential
from data.shards import ShardReader
from trainer.distributed import World
from trainer.profile.counting import Alive, evaluation_flops
from trainer.task import Batch, Task

BATCHES = (1, 32)
"""Samples per pass: one alone, and enough that a pass is as quick per sample as it gets"""
LEAST, MOST, PATIENCE_S = 5, 100, 1.0
"""Timed passes of each batch at least and at most, and the seconds after which those between are left out"""


def measure_cost(task: Task, nets: Mapping[str, nn.Module], reader: ShardReader, world: World) -> dict[str, Any]:
    """cost.json: medians and 99th percentiles over passes of `task.evaluate` on samples of a split, after one untimed.

    Time and memory are those of the networks in fp32 and of the sums of the metrics, without reading samples or
    collating them; weights and the batch itself are not in the memory.
    """
    latency, rates, memory = {}, {}, {}
    flops = 0
    for size in BATCHES:
        batch = next(sequential(reader, task.collate, size=size, limit=size, part=0, parts=1)).to(world.device)
        samples = len(batch.ids)
        if str(samples) in latency:
            break  # the split has no more
        flops = flops or evaluation_flops(task, nets, batch) // samples
        memory[str(samples)] = pass_bytes(task, nets, batch, world.device)
        times = time_passes(lambda batch=batch: task.evaluate(nets, batch), world.device)
        median = float(np.median(times))
        p99 = float(np.percentile(times, 99))
        latency[str(samples)] = {"median": median * 1e3, "p99": p99 * 1e3, "passes": len(times)}
        rates[str(samples)] = samples / median
    return {
        "parameters": sum(p.numel() for net in nets.values() for p in net.parameters()),
        "flops_per_sample": flops,
        "activation_bytes": memory,
        "memory_by": "allocator" if world.device.type == "cuda" else "tensors",
        "latency_ms": latency,
        "samples_per_s": rates,
        "device": device_name(world.device),
        "threads": torch.get_num_threads(),
    }


@torch.no_grad()
def pass_bytes(task: Task, nets: Mapping[str, nn.Module], batch: Batch, device: torch.device) -> int:
    """The most bytes that a pass holds at once beside the weights and the batch.

    On CUDA the rise of the allocator's peak, blocks rounded up and operations' work space among it. Elsewhere no
    allocator tells: the tensors made in the pass by their sizes, without what an operation uses inside itself.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        task.evaluate(nets, batch)
        return torch.cuda.max_memory_allocated(device) - before
    with Alive() as alive:
        alive.leave_out(tensor for net in nets.values() for tensor in (*net.parameters(), *net.buffers()))
        alive.leave_out(batch.tensors.values())
        task.evaluate(nets, batch)
    return alive.peak_bytes


@torch.no_grad()
def time_passes(work: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of each of several calls, after one that is not timed; the device's own work is waited for."""
    times: list[float] = []
    begun = time.perf_counter()
    for number in range(MOST + 1):
        if number > LEAST and time.perf_counter() - begun > PATIENCE_S:
            break
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:
            times.append(time.perf_counter() - start)
    return times


def device_name(device: torch.device) -> str:
    """What it was measured on, as the maker calls it where that is known."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine() or device.type
