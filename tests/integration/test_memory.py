"""Memory told from shapes is that of real engines at every ZeRO stage, with and without offload."""

import json
import os
import subprocess
import sys
from functools import cache

import pytest

from tests.zero_memory import ASKED, Rows, batch, network, run_at
from trainer.profile.counting import activations
from trainer.profile.memory import holdings, predict_memory

pytestmark = pytest.mark.slow
RANKS = 4


@cache
def measured(precision: str) -> dict[str, int]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RANK": "0", "WORLD_SIZE": str(RANKS), "LOCAL_RANK": "0"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.zero_memory", str(RANKS), precision]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("asked", ASKED)
def test_the_predicted_bytes_are_those_of_an_engine(asked: str, precision: str):
    """Never less by more than the padding of partitions, at most a quarter more: what is added up may come in turn."""
    run, nets, task = run_at(ASKED[asked], ranks=RANKS, precision=precision), {"model": network()}, Rows()
    held = activations(task, nets, batch(), precision=precision)  # type: ignore[arg-type]  # no more of a task is needed
    memory = predict_memory(holdings(nets, task, run), run, held.peak_bytes)  # type: ignore[arg-type]
    got = measured(precision)[asked]
    assert 0.97 * got <= memory.total + memory.host <= 1.25 * got, memory
