"""A real run, interrupted and gone on with: explained, altered, and done again."""

import json
import shutil
from pathlib import Path

import pytest

from tests.corpus import changed
from tests.custody import link_of
from tests.runs import run

pytestmark = pytest.mark.slow

SHORT = ("train.steps=8", "train.schedule.warmup_steps=2", "train.checkpoint.every_steps=4", "world.processes=1")


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on one rank through all stages, whose second half was trained by another start of the command."""
    runs = tmp_path_factory.mktemp("custody")
    for command in ("prepare", "train"):
        done = run(command, config, *SHORT, "--runs", runs, "--name", "run")
        assert done.returncode == 0, done.stderr
    shutil.rmtree(runs / "run/train/step-00000008")
    done = run("run", config, *SHORT, "--runs", runs, "--name", "run")
    assert done.returncode == 0, done.stderr
    assert "continuing after step 4" in done.stdout
    return runs / "run"


def test_a_real_run_is_whole_and_an_altered_byte_is_named(whole: Path):
    sound = run("explain", whole)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "14 links are verified" in sound.stdout
    for name, link in (("data/train-00000.tar", "shards"), ("evaluation/units.safetensors", "evaluation files")):
        content = bytearray((whole / name).read_bytes())
        content[len(content) // 2] ^= 1
        with changed(whole / name, bytes(content)):
            broken = run("explain", whole, "--json", "--no-sources")
        assert broken.returncode == 1
        assert json.loads(broken.stdout)["first_broken"] == link


def test_every_file_of_a_real_run_is_a_link_or_known_to_carry_no_claim(whole: Path):
    links = {link_of(path, whole.parent) for path in whole.rglob("*") if path.is_file()}
    of_data = {"tokenizer", "data files", "shards", "manifest", "data code"}  # the code that trained is one with that
    assert links == {*of_data, "settings", "weights", "checkpoint", "evaluation files", "metrics", "report", None}


def test_a_run_done_again_is_equal_to_the_last_bit(whole: Path):
    again = run("reproduce", whole)
    assert "equal to the last bit: ema, optimizer, weights, metrics" in again.stdout, again.stdout + again.stderr
    assert "not equal" not in again.stdout
    assert again.returncode == 0
    assert (whole.with_name("run-again") / "evaluation/metrics.json").is_file()
    refused = run("reproduce", whole, "--name", "run-again")
    assert refused.returncode == 2
    assert "is there already" in refused.stderr
