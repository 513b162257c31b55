"""What a step of the pipeline does on a cluster: its launcher, the volume of its job, the artifacts that KFP shows."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from configs.errors import UserError
from configs.folder import RunFolder, write_json
from configs.lines import Line
from configs.load import load
from configs.schema import RunConfig
from k8s.launch import Outcome
from pipelines import launching
from pipelines.artifacts import fill_classification, show_evaluation
from pipelines.launching import JOB, LOCAL, launch_asked, launch_here, volume_of
from tests.golden.__main__ import CONFIGS

pytestmark = pytest.mark.cluster
KFP_VOLUME: dict[str, Any] = {"name": "w", "persistentVolumeClaim": {"claimName": "run-1-workspace"}}
TOLD = dsl.TaskConfig(volumes=[KFP_VOLUME], volume_mounts=[{"name": "w", "mountPath": "/kfp-workspace"}])


@pytest.fixture
def demo() -> RunConfig:
    return load([str(CONFIGS / "demo-lm.yaml")])


@pytest.fixture
def claimed() -> RunConfig:
    return load([str(CONFIGS / "demo-lm.yaml"), "cluster.workspace={claim: shared}"])


@dataclass
class Asked:
    """A launcher of jobs that writes down what it is asked for."""

    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, run: RunConfig, stage: str, folder: RunFolder, show: Any, **more: Any) -> Outcome:
        self.calls.append({"stage": stage, "folder": folder, **more})
        return Outcome(0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    stand_in = Asked()
    monkeypatch.setattr(launching, "launch_job", stand_in)
    return stand_in


def nothing(line: Line) -> None:
    raise AssertionError(line)


def test_a_stage_with_ranks_becomes_a_job_with_kfp_s_volume(demo: RunConfig, asked: Asked, tmp_path: Path) -> None:
    launch = launch_asked((JOB, "run-1", TOLD), "0-1")
    assert launch("train", demo, RunFolder(tmp_path), nothing).code == 0
    (call,) = asked.calls
    assert call == {
        "stage": "train",
        "folder": RunFolder(tmp_path),
        "pipeline_run": "run-1",
        "fold": "0-1",
        "volume": {"persistentVolumeClaim": {"claimName": "run-1-workspace"}},
    }


def test_with_a_claim_of_its_own_the_job_needs_nothing_of_kfp(claimed: RunConfig, asked: Asked, tmp_path: Path) -> None:
    launch_asked((JOB, "run-1", dsl.TaskConfig()), "")("evaluate", claimed, RunFolder(tmp_path), nothing)
    assert asked.calls[0]["volume"] is None


def test_a_stage_without_ranks_is_carried_out_in_the_step_s_own_pod(
    demo: RunConfig, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: list[str] = []
    monkeypatch.setattr(launching, "launch_here", lambda stage, *rest: here.append(stage) or Outcome(0))
    launch_asked((JOB, "run-1", TOLD), "")("prepare", demo, RunFolder(tmp_path), nothing)
    assert here == ["prepare"]
    assert not asked.calls


def test_on_this_machine_no_job_is_made() -> None:
    assert launch_asked((LOCAL, "", dsl.TaskConfig()), "") is launch_here


def test_another_launcher_is_refused() -> None:
    with pytest.raises(UserError, match="launcher=cloud must be local or job"):
        launch_asked(("cloud", "", dsl.TaskConfig()), "")


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (dsl.TaskConfig(), "told this step of no volume"),
        (dsl.TaskConfig(volumes=[KFP_VOLUME], volume_mounts=[{"name": "w", "mountPath": "/data"}]), "of /data"),
    ],
)
def test_a_kfp_that_does_not_tell_of_its_volume_is_refused(demo: RunConfig, told: dsl.TaskConfig, says: str) -> None:
    with pytest.raises(UserError, match=rf"{says}.*cluster\.workspace\.claim"):
        volume_of(told, demo)


MATRIX = {"kind": "matrix", "title": "", "rows": ["a", "b"], "columns": ["a", "b"], "values": [[5, 1], [2, 4]]}
ROC = {
    "kind": "curves",
    "title": "",
    "x": "false positive rate",
    "y": "true positive rate",
    "lines": [{"name": "a", "x": [0, 0, 1], "y": [0, 1, 1]}, {"name": "b", "x": [0, 1], "y": [0, 1]}],
}


def test_a_confusion_matrix_and_the_mean_roc_are_shown() -> None:
    artifact = dsl.ClassificationMetrics()
    fill_classification(artifact, [{"kind": "bars"}, MATRIX, ROC])
    told: dict[str, Any] = json.loads(json.dumps(artifact.metadata))
    assert [row["row"] for row in told["confusionMatrix"]["rows"]] == [[5, 1], [2, 4]]
    curve = told["confidenceMetrics"]
    middle = next(point for point in curve if point["falsePositiveRate"] == 0.5)
    assert middle == {"confidenceThreshold": 0.5, "falsePositiveRate": 0.5, "recall": 0.75}
    assert curve[-1]["recall"] == 1.0
    assert told["mean of"] == "a, b"


def test_an_evaluation_without_classes_leaves_that_artifact_empty() -> None:
    artifact = dsl.ClassificationMetrics()
    fill_classification(artifact, [MATRIX | {"columns": ["x", "y"]}, ROC | {"x": "recall", "y": "precision"}])
    assert artifact.metadata == {}


def test_every_number_and_the_report_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.evaluation.mkdir()
    metrics = [{"name": "test/loss", "value": 1.5}, {"name": "test/area", "value": None}]
    write_json(folder.metrics, {"metrics": metrics})
    write_json(folder.figures, [])
    monkeypatch.setattr("pipelines.artifacts.write_report", lambda place: place.report.write_text("<html>page</html>"))
    shown = (dsl.Metrics(), dsl.ClassificationMetrics(), dsl.HTML(uri=str(tmp_path / "there" / "report")))
    show_evaluation(folder, shown)
    assert shown[0].metadata == {"test/loss": 1.5}
    assert Path(shown[2].path).read_text() == "<html>page</html>"
