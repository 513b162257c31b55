"""Recurring runs as schedules want them, and the steps that lead there, which may break off anywhere."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from configs.errors import ConfigError
from configs.folder import digest
from configs.load import load
from configs.schedule import ScheduleConfig
from configs.schedule_file import arguments_of
from configs.schema import RunConfig
from k8s.api import Object
from pipelines.cluster.kfp import Kfp
from pipelines.cluster.package import joined, pipeline_of
from pipelines.parameters import EACH
from pipelines.suites import compile_nightly, load_alone

PREFIX = "trainworks/"
"""Of the names of recurring runs that are made from files"""
SUITE = "suite"
_DIGEST = re.compile(r"trainworks digest ([0-9a-f]{64})")


@dataclass(frozen=True)
class Wanted:
    """A recurring run as a file describes it."""

    name: str
    body: Mapping[str, Any]
    paused: bool

    @property
    def digest(self) -> str:
        """Of all that cannot be changed in a recurring run: it is known again by it."""
        return digest(self.body)

    def request(self) -> dict[str, Any]:
        told = f"made from a schedule's file by `trainworks schedule`\ntrainworks digest {self.digest}"
        mode = "DISABLE" if self.paused else "ENABLE"
        return {**self.body, "display_name": self.name, "description": told, "mode": mode}


@dataclass(frozen=True)
class Step:
    """One change to the cluster."""

    verb: str
    """disable, create, enable or delete"""
    name: str
    why: str
    identity: str = ""
    request: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.verb} {self.name}: {self.why}"


def wanted_of(path: Path, schedule: ScheduleConfig, overlay: Path) -> Iterator[tuple[RunConfig, Wanted]]:
    """The recurring runs of a schedule, each with the run whose cluster it is for. Raises ConfigError."""
    if schedule.suite is not None:
        yield _suite(path.parent / schedule.suite, schedule, overlay)
    for each in schedule.runs:
        config, *words = arguments_of(path, each)
        run = load([config, str(overlay), *words])
        parameters = {"folder": f"{each.name}-{EACH}"}
        yield run, _wanted(each.name, schedule, pipeline_of(run), parameters)


def _suite(suite: Path, schedule: ScheduleConfig, overlay: Path) -> tuple[RunConfig, Wanted]:
    from configs.suite_file import arguments_of as words_of
    from configs.suite_file import read_suite

    read = read_suite(suite)
    run = load_alone(words_of(suite, read.runs[0], read.seeds[0]), overlay)
    with TemporaryDirectory(prefix="trainworks-") as scratch:
        path = Path(scratch) / "pipeline.yaml"
        compile_nightly(suite, overlay, run.cluster, path)
        return run, _wanted(SUITE, schedule, joined(path), {})


def _wanted(name: str, schedule: ScheduleConfig, pipeline: Object, parameters: Mapping[str, str]) -> Wanted:
    body = {
        "pipeline_spec": pipeline,
        "runtime_config": {"parameters": dict(parameters)},
        "trigger": {"cron_schedule": {"cron": f"0 {schedule.cron}"}},  # KFP's first field is the second
        "max_concurrency": str(schedule.max_concurrency),
        "no_catchup": True,
    }
    return Wanted(f"{PREFIX}{schedule.name}/{name}", body, schedule.paused)


def steps(wanted: Sequence[Wanted], there: Sequence[Object], scope: Sequence[str] | None) -> Iterator[Step]:
    """What makes the cluster as the files are; nothing when it is so already.

    `scope`: the schedules that the files speak of; None: all there are, so that a file that is gone deletes its own.
    A changed one is replaced, since KFP changes none: the old one is disabled, the new one made, the old one deleted.
    Broken off anywhere, the same command goes on: nothing fires twice meanwhile, and what is stale goes.
    """
    ours = [each for each in there if _is_ours(each, scope)]
    for each in wanted:
        found = [old for old in ours if old["display_name"] == each.name]
        same = [old for old in found if _digest_of(old) == each.digest]
        stale = [old for old in found if old not in same[:1]]
        for old in stale:
            if old.get("status") == "ENABLED":
                yield Step("disable", each.name, "it is about to be replaced", old["recurring_run_id"])
        if not same:
            why = "it has changed" if found else "it is new"
            yield Step("create", each.name, why + (", paused" if each.paused else ""), request=each.request())
        elif (same[0].get("status") == "ENABLED") == each.paused:
            verb, why = ("disable", "it is paused") if each.paused else ("enable", "it is no longer paused")
            yield Step(verb, each.name, why, same[0]["recurring_run_id"])
        for old in stale:
            yield Step("delete", each.name, "it was replaced", old["recurring_run_id"])
    names = {each.name for each in wanted}
    for old in ours:
        if old["display_name"] not in names:
            yield Step("delete", old["display_name"], "no file has it any more", old["recurring_run_id"])


def take(step: Step, kfp: Kfp) -> None:
    """Carry out one step."""
    if step.verb == "create":
        assert step.request is not None, "a creation says what is made"
        kfp.create_recurring(step.request)
    elif step.verb == "delete":
        kfp.delete_recurring(step.identity)
    else:
        kfp.change_recurring(step.identity, step.verb)


def require_one_place(runs: Mapping[str, RunConfig]) -> RunConfig:
    """The run that stands for all of them: their clusters must be one. Raises ConfigError."""
    first, *others = runs.items()
    for name, run in others:
        if run.cluster != first[1].cluster:
            raise ConfigError(f"{name} and {first[0]} are for different clusters; give each a command of its own")
    return first[1]


def _is_ours(found: Mapping[str, Any], scope: Sequence[str] | None) -> bool:
    """Whether a recurring run was made from files, and from those that are spoken of."""
    name = found.get("display_name") or ""
    if not name.startswith(PREFIX) or _digest_of(found) is None:
        return False
    return scope is None or name.removeprefix(PREFIX).rpartition("/")[0] in scope


def _digest_of(found: Mapping[str, Any]) -> str | None:
    match = _DIGEST.search(found.get("description") or "")
    return match[1] if match else None
