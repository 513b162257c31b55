"""Imports that ranks would make one by one, made once in the agent, which they are then forked from."""

import gc
import importlib
import importlib.util
import os
import sys
from pathlib import Path


def preload(module: str, kind: str) -> bool:
    """Import what a rank of `module` does, for a task of this kind; whether ranks may be forked from this process.

    Not on machines with GPUs, whose drivers do not survive a fork, nor when an import has started a thread.
    """
    if any(Path("/dev").glob("nvidia*")) or Path("/dev/kfd").exists():
        return False
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start its threads when it is imported
    package = importlib.util.find_spec(module)
    main = f"{module}.__main__" if package and package.submodule_search_locations else module
    try:
        importlib.import_module(main)
        if module in ("trainer", "trainer.evaluation"):
            _import_late(module, kind)
    except Exception:
        return False  # the ranks will fail of the same, and say so
    sys.modules.pop(main)  # each rank runs it anew as its own __main__
    gc.collect()
    gc.freeze()  # a rank's collector would copy the pages of everything that is imported
    return len(os.listdir("/proc/self/task")) == 1


def _import_late(module: str, kind: str) -> None:
    """What a stage imports only once it runs: its family, DeepSpeed, and what torch does on its first step."""
    from trainer.tasks import FAMILIES

    family = FAMILIES[kind]
    late = [family.task, "torch._dynamo"] if module == "trainer" else [family.task, family.evaluation]
    for name in late:
        importlib.import_module(name.partition(":")[0])
    if module == "trainer":
        from trainer.engines import quiet_deepspeed

        quiet_deepspeed()
