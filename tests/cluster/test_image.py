"""The image, built on a stand-in for its base where podman is here, and two containers of it that train together."""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.code import code_record
from configs.folder import digest
from tests.cluster.engine import Engine, missing
from tests.runs import losses_of, run, tiny_config, write_corpus

IMAGE = "localhost/trainworks:test"
CODE = digest(code_record()["files"])
LOCKED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges")
PROBE = """
import importlib.util, json, os, shutil
from pathlib import Path
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from configs.code import code_record
from configs.folder import digest
from pipelines.cli import OWN_COMMANDS

def refused(path):
    try:
        Path(path).write_text("x")
    except OSError:
        return True
    return False

weight = torch.nn.Parameter(torch.ones(64))
optimizer = DeepSpeedCPUAdam([weight], lr=0.1)
weight.grad = torch.ones(64)
optimizer.step()
print(json.dumps({
    "uid": os.getuid(), "stepped": round(weight[0].item(), 4),
    "compilers": [name for name in ("gcc", "g++", "cc", "c++", "clang", "nvcc") if shutil.which(name)],
    "code": digest(code_record()["files"]),
    "lacking": [module for module, _ in OWN_COMMANDS.values() if importlib.util.find_spec(module) is None],
    "refused": [refused(path) for path in ("/x", "/opt/trainworks/x", "/etc/x")], "tmp": refused("/tmp/x"),
}))
"""

WHY_NOT = missing()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "an engine is here"),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Podman with the image in it."""
    engine = Engine()
    try:
        engine.make_base()
    except subprocess.SubprocessError as error:
        pytest.skip(f"no base image could be made: {error}")
    probe = engine.run("run", "--rm", "--network=none", "docker.io/library/python:3.11-slim-bookworm", "true")
    if probe.returncode:
        pytest.skip(f"podman starts no container here: {probe.stderr.strip().splitlines()[-1:]}")
    engine.build(IMAGE, "--build-arg=COMMIT=0123abc", "--build-arg=VERSION=0.1.0", f"--build-arg=CODE={CODE}")
    yield engine
    print({name: f"{seconds:.0f} s" for name, seconds in engine.durations.items()})


def test_on_a_stand_in_base_the_image_says_what_it_is_made_of(engine: Engine) -> None:
    labels = json.loads(engine.told("inspect", IMAGE, "--format={{json .Labels}}"))
    described = {key.removeprefix("org.opencontainers.image."): value for key, value in labels.items()}
    assert described["revision"] == "0123abc"
    assert described["version"] == "0.1.0"
    assert described["title"] == "trainworks"
    assert described["base.name"] == "python:3.11-slim-bookworm"
    assert described["dev.trainworks.code"] == CODE


def test_it_holds_this_code_and_steps_cpu_adam_without_a_compiler_a_user_or_a_root_to_write_on(engine: Engine) -> None:
    printed = engine.told("run", "--rm", *LOCKED, "--network=none", IMAGE, "python", "-c", PROBE)
    assert json.loads(printed.splitlines()[-1]) == {
        "uid": 10001,
        "stepped": 0.9,
        "compilers": [],
        "code": CODE,
        "lacking": [],
        "refused": [True, True, True],
        "tmp": False,
    }


def test_the_smoke_command_trains_ten_steps_without_a_network(engine: Engine) -> None:
    start = time.monotonic()
    printed = engine.told("run", "--rm", *LOCKED, "--network=none", IMAGE, "trainworks", "smoke", timeout_s=180)
    engine.durations["smoke"] = time.monotonic() - start
    assert "10 steps, from the start" in printed
    assert "train    step 10 " in printed


def test_two_containers_on_a_network_of_their_own_train_what_two_local_ranks_do(engine: Engine, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, write_corpus(tmp_path / "corpus"))
    for name in ("local", "nodes"):
        assert run("prepare", config, "--runs", tmp_path, "--name", name).returncode == 0
    assert run("train", config, "--runs", tmp_path, "--name", "local").returncode == 0
    for path in [tmp_path / "nodes", *(tmp_path / "nodes").rglob("*")]:
        os.chown(path, 10001, 10001)

    name, start = f"trainworks-{uuid.uuid4().hex[:8]}", time.monotonic()
    engine.told("network", "create", name)
    try:
        for number in range(2):
            _start_node(engine, name, number, tmp_path / "nodes")
        codes = engine.told("wait", f"{name}-0", f"{name}-1", timeout_s=180).split()
        logs = "\n".join(engine.run("logs", f"{name}-{number}").stdout for number in range(2))
        assert codes == ["0", "0"], logs
    finally:
        engine.run("rm", "--force", "--time=0", f"{name}-0", f"{name}-1")
        engine.told("network", "rm", name)
    engine.durations["two nodes"] = time.monotonic() - start

    ours, theirs = losses_of(tmp_path / "nodes"), losses_of(tmp_path / "local")
    assert ours.keys() == theirs.keys()
    assert [ours[step] for step in ours] == pytest.approx([theirs[step] for step in ours], rel=1e-4)


def _start_node(engine: Engine, network: str, number: int, folder: Path) -> None:
    """What an operator would start: this node's place in its environment, the run's folder on a shared volume."""
    place = {"PET_NNODES": 2, "PET_NODE_RANK": number, "PET_NPROC_PER_NODE": 1}
    place |= {"MASTER_ADDR": f"{network}-0", "MASTER_PORT": 29500}
    environment = [f"--env={key}={value}" for key, value in place.items()]
    mounts = [f"--network={network}", f"--name={network}-{number}", f"--volume={folder}:/workspace"]
    words = ("python", "-m", "trainer.node", "trainer", "/workspace")
    engine.told("run", "--detach", *LOCKED, *mounts, *environment, IMAGE, *words)
