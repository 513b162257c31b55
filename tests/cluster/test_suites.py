"""The nightly suite on a cluster: its pipeline, and its step, which stores baselines once and gates from then on."""

import json
from pathlib import Path

import pytest
import yaml
from kfp import dsl

from configs.load import load
from configs.suite_file import load_run, read_suite
from pipelines.suites import compile_nightly, encode_suite, nightly_step, verdict_step, write_suite
from tests.cluster.conftest import DIGEST
from tests.golden.__main__ import CONFIGS
from tests.runs import tiny_config, write_corpus

pytestmark = pytest.mark.cluster
NIGHTLY = CONFIGS / "nightly.yaml"
NODE = {"cpu": "4", "memory": "16Gi", "gpus": 1}
CLUSTER = {"image": DIGEST, "workspace": {"claim": "shared"}, "node": NODE, "tolerations": [{"key": "gpu"}]}


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump({"cluster": CLUSTER}))
    return path


def test_a_suite_comes_whole_out_of_a_pipeline(overlay: Path, tmp_path: Path) -> None:
    written = write_suite(encode_suite(NIGHTLY, overlay), tmp_path)
    before, after = read_suite(NIGHTLY), read_suite(written)
    assert [run.name for run in after.runs] == [run.name for run in before.runs]
    assert (after.seeds, after.gate) == (before.seeds, before.gate)
    for ours, theirs in zip(after.runs, before.runs, strict=True):
        cluster = load([str(CONFIGS / "demo-lm.yaml"), str(overlay), "world.processes=1"]).cluster
        assert load_run(written, ours, 2) == load_run(NIGHTLY, theirs, 2).model_copy(update={"cluster": cluster})


def test_the_step_that_trains_has_a_node_s_resources_and_the_verdict_has_not(overlay: Path, tmp_path: Path) -> None:
    cluster = load([str(CONFIGS / "demo-lm.yaml"), str(overlay), "world.processes=1"]).cluster
    compile_nightly(NIGHTLY, overlay, cluster, tmp_path / "pipeline.yaml")
    spec, platform = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
    executors = spec["deploymentSpec"]["executors"]
    assert executors["exec-nightly"]["container"]["resources"]["accelerator"]["resourceCount"] == "1"
    assert "accelerator" not in executors["exec-verdict"]["container"]["resources"]
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert settings["exec-nightly"]["tolerations"][0]["key"] == "gpu"
    assert settings["exec-nightly"]["emptyDirMounts"][0]["mountPath"] == "/dev/shm"
    assert settings["exec-verdict"]["pvcMount"][0]["constant"] == "shared"


@pytest.mark.slow
def test_the_first_night_stores_baselines_and_the_next_is_gated(overlay: Path, tmp_path: Path) -> None:
    tiny = tiny_config(tmp_path, write_corpus(tmp_path / "corpus"), steps=8)
    run = {"name": "language", "config": tiny.name, "overrides": ["world.processes=1", "train.schedule.warmup_steps=1"]}
    suite = {"name": "tiny", "seeds": [0, 1], "runs": [run], "gate": {"baseline": "tiny"}}
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump({"suite": suite}))
    text, volume = encode_suite(path, overlay), tmp_path / "volume"
    volume.mkdir()
    told = []
    for night in range(2):
        shown = (dsl.Metrics(), dsl.HTML(uri=str(tmp_path / f"night-{night}" / "report")))
        told.append((nightly_step(text, str(volume), shown), shown))
        assert "language" in Path(shown[1].path).read_text()
    (first, _), (second, (metrics, _)) = told
    assert (first, second) == (0, 0)
    assert list((volume / "baselines" / "tiny-language").glob("0001.json"))
    assert metrics.metadata["language verdict"] == "same"
    assert metrics.metadata["language test/loss gain %"] == 0.0
    assert json.loads(json.dumps(metrics.metadata))


def test_a_suite_that_is_worse_fails_the_pipeline_run(capsys: pytest.CaptureFixture[str]) -> None:
    verdict_step(0)
    with pytest.raises(SystemExit) as ended:
        verdict_step(1)
    assert ended.value.code == 1
    assert "something is worse" in capsys.readouterr().out
