"""Workspaces are functions of what families declare: every family, every number, the same from build to build."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from wandb_workspaces.workspaces.internal import WorkspaceViewspec

from configs.dataset import Config
from configs.errors import ConfigError
from configs.load import load
from configs.quantities import (
    STEP,
    VERDICT,
    FamilyMetrics,
    Quantity,
    label_of,
    matching,
    metrics_of,
    of_baseline,
    of_gate,
    of_training,
    of_validation,
)
from pipelines.dashboards.__main__ import main
from pipelines.dashboards.build import family_workspace, nightly_workspace, to_json, workspace_of
from pipelines.dashboards.names import NIGHTLY, Place, families, names, view_key
from pipelines.gate.readings import MACHINE
from tests.contract.toy_family import BrightnessConfig
from tests.golden.__main__ import golden_dashboard
from tests.tiny import CONFIGS

every = pytest.mark.parametrize("name", names())
ROOT = Path(__file__).parent.parent.parent
LOSS = Quantity("loss", "nats", "lower")


def sections(text: str) -> dict[str, list[dict[str, Any]]]:
    """Panels by the name of their section."""
    found = json.loads(text)["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in found}


def shown(panels: list[dict[str, Any]]) -> set[str]:
    """The names of all numbers and media in panels."""
    found: set[str] = set()
    for config in (panel["config"] for panel in panels):
        told = [*config.get("metrics", ()), *config.get("mediaKeys", ())]
        told += [config[axis] for axis in ("xAxis", "yAxis") if axis in config]
        found |= {each.removeprefix("summary_metrics.").removeprefix("summary:") for each in told}
    return found


@cache
def all_shown(name: str) -> set[str]:
    return set().union(*(shown(panels) for panels in sections(to_json(workspace_of(name))).values()))


@every
def test_a_workspace_equals_its_golden_file(name: str) -> None:
    written = golden_dashboard(name).read_text(encoding="utf-8")
    assert to_json(workspace_of(name)) == written, "changed on purpose? make golden, and look"


def test_golden_files_of_dashboards_are_all_of_workspaces_that_are_built() -> None:
    folder = golden_dashboard(NIGHTLY).parent
    assert {path.name for path in folder.glob("dashboard-*")} == {golden_dashboard(name).name for name in names()}


@every
def test_a_golden_file_is_what_the_library_reads(name: str) -> None:
    spec = json.dumps(json.loads(golden_dashboard(name).read_text(encoding="utf-8"))["spec"])
    assert WorkspaceViewspec.model_validate_json(spec).section.panel_bank_config.sections


@every
def test_ids_of_panels_and_titles_of_a_section_differ(name: str) -> None:
    found = sections(to_json(workspace_of(name)))
    ids = [panel["__id__"] for panels in found.values() for panel in panels]
    assert len(set(ids)) == len(ids)
    for panels in found.values():
        titles = [title for panel in panels if (title := panel["config"].get("chartTitle"))]
        assert len(set(titles)) == len(titles)


def test_a_view_is_known_by_what_it_shows_and_where() -> None:
    keys = {view_key(name, Place(entity, "p")) for name in names() for entity in ("a", "b")}
    assert len(keys) == 2 * len(names())
    assert view_key(NIGHTLY, Place("a", "p")) == view_key(NIGHTLY, Place("a", "p"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_has_a_workspace_that_shows_what_it_watches(path: Path) -> None:
    run = load([str(path)])
    train = run.train
    watched = [each.metric for each in (train.early_stopping, train.checkpoint.best) if each is not None]
    assert set(watched) <= all_shown(run.task.kind)


@pytest.mark.parametrize("family", families())
def test_every_number_that_a_family_declares_is_shown(family: str) -> None:
    told, found = metrics_of(families()[family]), all_shown(family)
    validated = {of_validation(each.name) for each in told.validation}
    evaluated = {each.name for each in told.evaluated if each.is_one}
    text = getattr(families()[family], "reads", "") == "text"
    trained = {each.name for each in of_training(told) if text or "tokens" not in each.name}
    assert validated | evaluated | trained <= found


@pytest.mark.parametrize("family", families())
def test_runs_are_of_the_family_and_stand_by_group_and_job_type(family: str) -> None:
    (runs,) = json.loads(to_json(workspace_of(family)))["spec"]["section"]["runSets"]
    assert [(each["key"]["name"], each["value"]) for each in runs["filters"]["filters"]] == [("task.kind", family)]
    assert [each["name"] for each in runs["grouping"]] == ["group", "jobType"]


def test_what_training_tells_is_drawn_over_its_own_steps() -> None:
    drawn = [
        panel
        for panels in sections(to_json(workspace_of("causal_lm"))).values()
        for panel in panels
        if panel["viewType"] == "Run History Line Plot"
    ]
    assert {panel["config"]["xAxis"] for panel in drawn} == {STEP}


def test_titles_have_the_unit_once_and_say_what_is_better() -> None:
    speed = sections(to_json(workspace_of("causal_lm")))["Speed & goodput"]
    titles = {panel["config"]["metrics"][0]: panel["config"]["chartTitle"] for panel in speed}
    assert titles["train/memory_bytes"] == "Train memory (bytes, lower is better)"
    assert titles["train/tokens_per_s"] == "Train tokens per s (tokens/s, higher is better)"


def test_the_nightly_shows_what_the_gate_weighs_of_every_family_and_machine() -> None:
    found = all_shown(NIGHTLY)
    for name in MACHINE:
        assert {of_gate(name), of_baseline(name)} <= found
    for family in families().values():
        assert {of_gate(each.name) for each in metrics_of(family).evaluated} & found
    (runs,) = json.loads(to_json(nightly_workspace()))["spec"]["section"]["runSets"]
    assert {each["key"]["name"] for each in runs["filters"]["filters"]} == {VERDICT}


def test_a_family_of_several_networks_shows_each_of_them() -> None:
    class PlayersConfig(BrightnessConfig):
        metrics = FamilyMetrics((LOSS,), (LOSS,), (), turns=("discriminator", "generator"))

    found = sections(to_json(family_workspace(PlayersConfig)))
    assert {"train/generator/loss", "train/discriminator/loss", "validation/loss"} <= shown(found["Loss & validation"])
    assert "train/generator/learning_rate" in shown(found["Optimisation"])
    assert "histograms/weights/generator" in shown(found["Samples"])
    assert label_of("generator", ("generator",)) == "train"


def test_a_new_family_has_a_workspace_of_what_it_declares() -> None:
    assert "validation/error" in shown(sections(to_json(family_workspace(BrightnessConfig)))["Loss & validation"])


def test_a_family_that_declares_nothing_is_told_what_to_do() -> None:
    class SilentConfig(Config):
        """Says nothing of its metrics."""

    with pytest.raises(ConfigError, match="SilentConfig does not say which metrics its runs tell; give it `metrics"):
        metrics_of(SilentConfig)


def test_a_name_of_its_own_wins_over_one_of_many() -> None:
    one, many = Quantity("test/f1", "share"), Quantity("test/f1*", "share")
    assert matching((many, one), "test/f1") is one
    assert matching((many, one), "test/f1_speaker") is many
    assert matching((one,), "test/f1_speaker") is None


BUILDING = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.posix_spawn"):
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(refuse)
from pipelines.dashboards.build import to_json, workspace_of
from pipelines.dashboards.names import names
print(sum(len(to_json(workspace_of(name))) for name in names()))
"""
LOOKING = """
import sys
from pipelines.cli import parser
from pipelines.dashboards.__main__ import parser as own
parser().format_help(), own().format_help()
print([name for name in sys.modules if name.split(".")[0] in ("wandb", "wandb_workspaces", "torch")])
"""


def python(program: str, **more: str) -> Iterator[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)} | more,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    yield from done.stdout.splitlines()


def test_building_starts_no_process_and_touches_no_network(tmp_path: Path) -> None:
    (length,) = python(BUILDING, HOME=str(tmp_path))
    assert int(length) == sum(len(golden_dashboard(name).read_text(encoding="utf-8")) for name in names())
    assert list(tmp_path.iterdir()) == []


def test_help_imports_no_wandb() -> None:
    assert list(python(LOOKING)) == ["[]"]


def test_show_prints_the_golden_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert main(["show", NIGHTLY]) == 0
    assert capsys.readouterr().out == golden_dashboard(NIGHTLY).read_text(encoding="utf-8")
