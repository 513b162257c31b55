"""A thousand runs, jobs of 256 nodes, ten thousand pods: what a launcher asks of the API and keeps does not grow."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cluster.bench import ROOT
from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.operator import FakeOperator
from tests.cluster.fake.simulated import SimulatedKubelet

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
SIZES = [256] * 36 + [1] * 964
"""Nodes of each job: 1,000 runs with 10,180 pods"""
CALLS = {
    ("list", "pytorchjobs"): 3,  # is one there to adopt; is it gone, twice
    ("create", "pytorchjobs"): 1,
    ("watch", "pods"): 1,
    ("list", "pods"): 3,  # one to begin the watch with, two to see that all are gone
    ("delete", "pytorchjobs"): 1,
}
"""Of each job, at most, whatever its size"""


def fleet(cluster: FakeCluster, home: Path, at_once: int, sizes: Sequence[int]) -> list[dict[str, int]]:
    """What the process with all launchers told after each job."""
    cluster.write_kubeconfig(home / "kubeconfig")
    command = [sys.executable, "-m", "tests.cluster.fleet", str(home), str(at_once), *map(str, sizes)]
    environment = os.environ | {"KUBECONFIG": str(home / "kubeconfig"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_thousand_runs_with_ten_thousand_pods_stay_flat(tmp_path: Path) -> None:
    with FakeCluster() as cluster, FakeOperator(cluster), SimulatedKubelet(cluster, run_s=0.5):
        cluster.create("namespaces", {"kind": "Namespace", "metadata": {"name": "trainworks"}})
        told = fleet(cluster, tmp_path, 48, SIZES)
        calls = Counter((each.verb, each.resource) for each in cluster.requests if not each.subresource)
        logs = sum(1 for each in cluster.requests if each.subresource == "log")
        assert cluster.objects("pods") == []
        assert cluster.objects("pytorchjobs") == []
    assert len(told) == len(SIZES)
    for call, each in CALLS.items():
        assert calls[call] <= each * len(SIZES), call
    assert calls[("get", "pytorchjobs")] <= 12 * len(SIZES)
    assert logs <= 3 * sum(SIZES), "a log is connected to once, and again to see its end"
    big, half, last = told[100]["bytes"], told[500]["bytes"], told[-1]["bytes"]
    assert last < 1.1 * max(big, half), "memory does not grow with the number of jobs"
