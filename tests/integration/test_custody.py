"""A real run explained, altered, and done again."""

import json
from pathlib import Path

import pytest

from tests.corpus import changed
from tests.runs import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on one rank through all stages."""
    runs = tmp_path_factory.mktemp("custody")
    short = ("train.steps=8", "train.schedule.warmup_steps=2", "world.processes=1")
    done = run("run", config, *short, "--runs", runs)
    assert done.returncode == 0, done.stderr
    return runs / "tiny"


def test_a_real_run_is_whole_and_an_altered_byte_is_named(whole: Path):
    sound = run("explain", whole)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "13 links are verified" in sound.stdout
    for name, link in (("data/train-00000.tar", "shards"), ("evaluation/units.safetensors", "evaluation files")):
        content = bytearray((whole / name).read_bytes())
        content[len(content) // 2] ^= 1
        with changed(whole / name, bytes(content)):
            broken = run("explain", whole, "--json", "--no-sources")
        assert broken.returncode == 1
        assert json.loads(broken.stdout)["first_broken"] == link


def test_a_run_done_again_is_equal_to_the_last_bit(whole: Path):
    again = run("reproduce", whole)
    assert "equal to the last bit: ema, optimizer, weights, metrics" in again.stdout, again.stdout + again.stderr
    assert "not equal" not in again.stdout
    assert (whole.with_name("tiny-again") / "evaluation/metrics.json").is_file()
    refused = run("reproduce", whole, "--name", "tiny-again")
    assert refused.returncode == 2
    assert "is there already" in refused.stderr
