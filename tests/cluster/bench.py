"""A fake cluster with a run that is prepared: steps are started, watched and interrupted as processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from configs.lines import FAILURE, parse, read_failure
from configs.load import dump, load
from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.kubelet import Kubelet
from tests.cluster.fake.operator import FakeOperator
from tests.runs import run, steps_of, tiny_config, wait_until, write_corpus

ROOT = Path(__file__).parent.parent.parent
NAMESPACE = "trainworks"
STEPS = 120
"""Long enough to be interrupted on a fast machine"""
IMAGE = "registry.example/trainworks@sha256:" + "0" * 64


@dataclass
class Bench:
    """The cluster, what runs on it, and the prepared run of which every test gets a copy."""

    cluster: FakeCluster
    kubelet: Kubelet
    operator: FakeOperator
    home: Path
    steps: list["Step"] = field(default_factory=list)

    def folder(self, name: str, *overrides: str) -> Path:
        """A run folder of its own, its data prepared."""
        place = self.home / name
        shutil.copytree(self.home / "prepared", place)
        (place / "run.yaml").write_text(dump(load([str(place / "run.yaml"), *overrides])))
        return place

    def start(self, folder: Path, *, stage: str = "train", pipeline_run: str = "run-1") -> "Step":
        """A step of the pipeline, in a pod of its own."""
        name = f"step-{folder.name}-{len(self.steps)}"
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": []}}
        uid = self.cluster.create("pods", pod, NAMESPACE)["metadata"]["uid"]
        with (self.home / f"{name}.out").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.step", stage, str(folder), pipeline_run],
                env=os.environ | self.environment | {"KFP_POD_NAME": name, "KFP_POD_UID": uid},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        step = Step(process, name, self.home / f"{name}.out", folder)
        self.steps.append(step)
        return step

    @property
    def environment(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.home / "kubeconfig"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def jobs(self, folder: Path) -> list[dict[str, Any]]:
        return [each for each in self._all("pytorchjobs", "trainjobs") if _of(each, folder)]

    def pods(self, folder: Path) -> list[dict[str, Any]]:
        """The job's pods, by name."""
        return [each for each in self._all("pods") if _of(each, folder)]

    def pod(self, folder: Path, node: int) -> str:
        return self.pods(folder)[node]["metadata"]["name"]

    def _all(self, *plurals: str) -> list[dict[str, Any]]:
        return [each for plural in plurals for each in self.cluster.objects(plural)]


@dataclass
class Step:
    """A running step, and what it says."""

    process: subprocess.Popen[bytes]
    pod: str
    output: Path
    folder: Path

    def says(self, text: str, timeout_s: float = 60) -> bool:
        """Whether it says so in time."""
        return wait_until(lambda: text in self.output.read_text() or self.process.poll() is not None, timeout_s) and (
            text in self.output.read_text()
        )

    def reaches(self, step: int, timeout_s: float = 90) -> bool:
        """Whether the training comes to a step in time."""
        return wait_until(lambda: any(seen >= step for seen in steps_of(self.folder)), timeout_s)

    def wait(self, timeout_s: float = 150) -> int:
        return self.process.wait(timeout_s)

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def reason(self) -> str:
        """Why it failed, in its own words."""
        lines = [line for text in self.text.splitlines() if (line := parse(text)) and line.mark == FAILURE]
        return read_failure(lines[-1])[1] if lines else ""


def _of(found: dict[str, Any], folder: Path) -> bool:
    return (found["metadata"].get("labels") or {}).get("trainworks.dev/run") == folder.name


@contextmanager
def bench(home: Path, cluster: dict[str, Any], *, admits: bool = True) -> Iterator[Bench]:
    """A cluster on which runs of a tiny model, configured so, have their data."""
    home.mkdir(parents=True, exist_ok=True)
    config = tiny_config(home, write_corpus(home / "corpus"), steps=STEPS, validate_every_steps=STEPS)
    tree = yaml.safe_load(config.read_text())
    tree["cluster"] = {"image": IMAGE, "workspace": {"claim": "workspace", "path": str(home)}, "nodes": 2} | cluster
    config.write_text(yaml.safe_dump(tree))
    prepared = run("prepare", config, "--runs", home, "--name", "prepared")
    assert prepared.returncode == 0, prepared.stderr
    with FakeCluster() as fake, Kubelet(fake) as kubelet, FakeOperator(fake, admits=admits) as operator:
        fake.create("namespaces", {"kind": "Namespace", "metadata": {"name": NAMESPACE}})
        fake.write_kubeconfig(home / "kubeconfig")
        made = Bench(fake, kubelet, operator, home)
        try:
            yield made
        finally:
            for step in made.steps:
                if step.process.poll() is None:
                    step.process.kill()
                step.process.wait(10)


def seconds(count: float) -> Callable[[], bool]:
    """Comes true after a time: for faults that last."""
    end = time.monotonic() + count
    return lambda: time.monotonic() > end
