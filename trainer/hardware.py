"""On what a rank runs, and what accelerators can do at most, by the name that torch.cuda gives them."""

import contextlib
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from configs.code import own_code

TERA = 1e12
SIXTEEN_BITS: tuple[tuple[str, float], ...] = (
    # the first whose words are all among a name's; dense TFLOP/s of tensor cores: half of what is said "with sparsity"
    ("B200", 2250.0),  # NVIDIA DGX B200 datasheet: 72 PFLOPS of FP8 over 8, sparse; FP16 has half of it
    ("GH200", 990.0),  # NVIDIA GH200 Grace Hopper Superchip datasheet
    ("H200 NVL", 835.5),  # NVIDIA H200 Tensor Core GPU datasheet
    ("H200", 989.5),  # the same, SXM
    ("H100 NVL", 835.5),  # NVIDIA H100 Tensor Core GPU datasheet
    ("H100 PCIe", 756.5),  # the same
    ("H100", 989.5),  # the same, SXM; its name ends in HBM3
    ("A100", 312.0),  # NVIDIA A100 Tensor Core GPU datasheet; SXM and PCIe
    ("L40S", 362.05),  # NVIDIA L40S GPU datasheet
    ("L40", 181.05),  # NVIDIA L40 GPU datasheet
    ("L4", 121.0),  # NVIDIA L4 Tensor Core GPU datasheet
    ("A40", 149.7),  # NVIDIA A40 datasheet
    ("A30", 165.0),  # NVIDIA A30 Tensor Core GPU datasheet
    ("A10", 125.0),  # NVIDIA A10 Tensor Core GPU datasheet
    ("V100 PCIE", 112.0),  # NVIDIA V100 Tensor Core GPU datasheet
    ("V100 SXM2", 125.0),  # the same
    ("T4", 65.0),  # NVIDIA T4 Tensor Core GPU datasheet
)
PACKAGES = ("torch", "deepspeed", "wandb")
"""Whose versions are told at a start; the record of the code has all"""
WITHOUT_BF16 = ("V100", "T4")
"""Tensor cores of before Ampere multiply fp16 alone"""


def peak_flops(name: str, precision: Literal["fp32", "bf16", "fp16"]) -> float | None:
    """Dense FLOP/s of one device at most; None where it is not known, as of a part of a device (MIG).

    In fp32 no one peak holds: torch multiplies matrices without tensor cores and convolves with them (TF32).
    """
    words = set(name.upper().replace("-", " ").split())
    if precision == "fp32" or "MIG" in words or (precision == "bf16" and words.intersection(WITHOUT_BF16)):
        return None
    return next((TERA * peak for model, peak in SIXTEEN_BITS if words.issuperset(model.upper().split())), None)


def peak_of(device: torch.device, precision: Literal["fp32", "bf16", "fp16"]) -> float | None:
    """The same of the device that a rank computes on; None for a CPU, whose peak its name does not tell."""
    return peak_flops(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory at any moment since the process began: of tensors on an accelerator; else the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        kilobytes = next(line.split()[1] for line in file if line.startswith("VmHWM:"))
    return 1024 * int(kilobytes)


def machine(device: torch.device) -> dict[str, Any]:
    """On what this rank runs, as of any machine of its kind: no name of a host, a person or a folder."""
    release = own_code()[1]["release"]
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "devices": torch.cuda.device_count() if on_gpu else 0,
        "device_memory_bytes": torch.cuda.get_device_properties(device).total_memory if on_gpu else 0,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version_of(name) for name in PACKAGES},
        "cuda": torch.version.cuda if on_gpu else None,
        "release": release,
        "code": own_code()[0],
    }


def cpu_model() -> str | None:
    """What the processor calls itself; None where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        names = (line.partition(":")[2].strip() for line in file if line.startswith(("model name", "Model")))
        return next(names, None) or platform.machine() or None
    return platform.processor() or None


def version_of(package: str) -> str | None:
    """Of an installed package; None where it is not there."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def process_age_s() -> float | None:
    """Seconds since this process was started; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    started = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"), 3)
