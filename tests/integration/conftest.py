"""One prepared data set and one uninterrupted training that the tests compare with."""

import shutil
from pathlib import Path

import pytest

from tests.runs import run, tiny_config, write_corpus


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny configuration with its corpus beside it."""
    home = tmp_path_factory.mktemp("tiny")
    return tiny_config(home, write_corpus(home / "corpus"))


@pytest.fixture(scope="session")
def prepared(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs in which `prepared` went through stage 1."""
    runs = tmp_path_factory.mktemp("runs")
    done = run("prepare", config, "--runs", runs, "--name", "prepared")
    assert done.returncode == 0, done.stderr
    return runs / "prepared"


@pytest.fixture(scope="session")
def uninterrupted(config: Path, prepared: Path) -> Path:
    """A run trained to its end without a disturbance."""
    folder = prepared.with_name("uninterrupted")
    shutil.copytree(prepared, folder)
    done = run("train", config, "--runs", folder.parent, "--name", folder.name)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def fresh(prepared: Path, tmp_path: Path) -> Path:
    """A run that is prepared and not yet trained."""
    shutil.copytree(prepared, tmp_path / "run")
    return tmp_path / "run"
