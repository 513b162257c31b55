"""Schedules in files and the recurring runs that they become: created, replaced, paused, deleted, and left alone."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import ConfigError
from configs.load import load
from configs.schedule import cron_problem
from configs.schedule_file import read_schedule, read_schedules
from pipelines.cluster import schedule
from pipelines.cluster.recurring import wanted_of
from tests.cluster.conftest import Site
from tests.golden.__main__ import CONFIGS

pytestmark = pytest.mark.cluster


class Files:
    """A folder of schedules, and the command over it."""

    def __init__(self, folder: Path, site: Site) -> None:
        self.folder, self.site = folder, site
        folder.mkdir()

    def write(self, name: str = "weekly", **changes: Any) -> Path:
        run = {"name": "demo", "config": str(CONFIGS / "demo-lm.yaml")}
        content = {"name": name, "cron": "0 4 * * sat", "runs": [run]} | changes
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"schedule": content}))
        return path

    def apply(self, *words: str, place: Path | None = None) -> int:
        return schedule.main([str(place or self.folder), "--cluster", str(self.site.overlay), *words])

    @property
    def there(self) -> dict[str, dict[str, Any]]:
        return {each["display_name"]: each for each in self.site.kfp.recurring.values()}

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [call for call in self.site.kfp.calls if call[0] != "GET"]


@pytest.fixture
def files(site: Site, tmp_path: Path) -> Files:
    return Files(tmp_path / "schedules", site)


def test_a_schedule_becomes_a_recurring_run_and_twice_changes_nothing(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write()
    assert files.apply() == 0
    (found,) = files.there.values()
    assert found["display_name"] == "trainworks/weekly/demo"
    assert found["trigger"] == {"cron_schedule": {"cron": "0 0 4 * * sat"}}
    assert (found["status"], found["max_concurrency"], found["no_catchup"]) == ("ENABLED", "1", True)
    assert found["runtime_config"]["parameters"] == {"folder": "demo-PIPELINE-RUN"}
    before = files.changes
    assert files.apply() == 0
    assert files.changes == before
    assert "nothing to do: 1 recurring run is as" in capsys.readouterr().out


def test_an_edited_schedule_is_replaced(files: Files) -> None:
    files.write()
    files.apply()
    old = files.there["trainworks/weekly/demo"]["recurring_run_id"]
    files.write(cron="0 5 * * sat")
    seen = len(files.changes)
    assert files.apply() == 0
    (found,) = files.there.values()
    assert found["trigger"]["cron_schedule"]["cron"] == "0 0 5 * * sat"
    assert files.changes[seen:] == [
        ("POST", f"/recurringruns/{old}:disable"),
        ("POST", "/recurringruns"),
        ("DELETE", f"/recurringruns/{old}"),
    ]


def test_pausing_and_going_on_keep_the_recurring_run(files: Files) -> None:
    files.write()
    files.apply()
    identity = files.there["trainworks/weekly/demo"]["recurring_run_id"]
    for paused, status in ((True, "DISABLED"), (False, "ENABLED")):
        files.write(paused=paused)
        assert files.apply() == 0
        (found,) = files.there.values()
        assert (found["recurring_run_id"], found["status"]) == (identity, status)


def test_a_schedule_whose_file_is_gone_is_deleted_and_nothing_else(files: Files) -> None:
    path, _ = files.write(), files.write("monthly", cron="0 4 1 * *")
    files.apply()
    experiment = next(iter(files.site.kfp.experiments))
    made_by_hand = {"display_name": "trainworks/by/hand", "experiment_id": experiment, "mode": "ENABLE"}
    files.site.kfp._create_recurring(made_by_hand)
    path.unlink()
    assert files.apply() == 0
    assert set(files.there) == {"trainworks/monthly/demo", "trainworks/by/hand"}


def test_a_file_alone_speaks_of_its_own_schedule_only(files: Files) -> None:
    files.write()
    other = files.write("monthly", cron="0 4 1 * *")
    files.apply()
    files.write(runs=[{"name": "renamed", "config": str(CONFIGS / "demo-lm.yaml")}])
    assert files.apply(place=files.folder / "weekly.yaml") == 0
    assert set(files.there) == {"trainworks/weekly/renamed", "trainworks/monthly/demo"}
    assert other.exists()


@pytest.mark.parametrize("broken", ["create", "delete"])
def test_a_replacement_that_broke_off_is_tidied_up(files: Files, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write()
    files.apply()
    files.write(cron="0 5 * * sat")
    real = schedule.take

    def break_off(step: Any, kfp: Any) -> None:
        if step.verb == broken:
            raise KeyboardInterrupt
        real(step, kfp)

    monkeypatch.setattr(schedule, "take", break_off)
    assert files.apply() == 130
    assert sum(each["status"] == "ENABLED" for each in files.site.kfp.recurring.values()) == (broken == "delete")
    monkeypatch.setattr(schedule, "take", real)
    assert files.apply() == 0
    (found,) = files.site.kfp.recurring.values()
    assert (found["status"], found["trigger"]["cron_schedule"]["cron"]) == ("ENABLED", "0 0 5 * * sat")


def test_a_dry_run_says_what_would_change_and_changes_nothing(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.write(paused=True)
    assert files.apply("--dry-run") == 0
    assert "would create trainworks/weekly/demo: it is new, paused" in capsys.readouterr().out
    assert not files.changes


def test_an_empty_folder_deletes_what_files_have_made(files: Files) -> None:
    path = files.write()
    files.apply()
    path.unlink()
    assert files.apply() == 0
    assert not files.there


def test_a_suite_becomes_a_gated_pipeline(files: Files) -> None:
    files.write("nightly", runs=[], suite=str(CONFIGS / "nightly.yaml"))
    assert files.apply() == 0
    (found,) = files.there.values()
    tasks = found["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert set(tasks) == {"nightly", "verdict"}
    assert tasks["verdict"]["dependentTasks"] == ["nightly"]


def test_a_suite_needs_a_volume_that_outlives_it(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.site.overlay.write_text("cluster: {namespace: trainworks}\n")
    files.write("nightly", runs=[], suite=str(CONFIGS / "nightly.yaml"))
    assert files.apply() == 2
    assert "set cluster.workspace.claim" in capsys.readouterr().err


def test_the_examples_are_schedules() -> None:
    names = {each.name for each in read_schedules([CONFIGS / "schedules"]).values()}
    assert names == {"nightly", "weekly-pretraining"}


@pytest.mark.parametrize("cron", ["0 2 * * *", "*/15 8-18 1,15 jan-mar mon-fri", "5 4 * * 0/2"])
def test_a_sound_cron_is_taken(cron: str) -> None:
    assert cron_problem(cron) is None


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("0 0 2 * * *", "has 6 fields"),
        ("60 2 * * *", "minute '60' must be"),
        ("0 2 * * 7", "day of the week '7'"),
        ("0 5-2 * * *", "hour '5-2'"),
        ("*/0 * * * *", "minute '\\*/0'"),
        ("0 2 * foo *", "month 'foo'"),
    ],
)
def test_an_unsound_cron_is_refused_with_what_is_allowed(files: Files, cron: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_schedule(files.write(cron=cron))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pause": True}, r"schedule.pause: unknown key; did you mean paused\?"),
        ({"runs": []}, "it must have either runs or a suite"),
        ({"suite": "nightly.yaml"}, "it must have either runs or a suite"),
        ({"runs": [{"name": "a", "confg": "b"}]}, r"schedule.runs.0.confg: unknown key; did you mean config\?"),
    ],
)
def test_a_mistake_in_a_schedule_is_named_with_its_place(files: Files, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_schedule(files.write(**change))


@pytest.mark.parametrize("cluster", ["fake", "gpu", "kind"])
def test_the_schedules_that_are_shipped_fit_the_clusters_that_are(cluster: str) -> None:
    overlay, found = CONFIGS / "clusters" / f"{cluster}.yaml", []
    for path, each in read_schedules([CONFIGS / "schedules"]).items():
        found += [run for run, _ in wanted_of(path, each, overlay)]
    gpus = load([str(CONFIGS / "shakespeare.yaml"), str(overlay)]).cluster.node.gpus
    suite = next(run for run in found if run.name == "demo-lm")
    assert (suite.cluster.nodes, suite.cluster.node.gpus) == (1, 1 if gpus else 0), "a suite runs in one pod"
