"""Schedules read from their files, each problem with its place and remedy."""

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from configs.dataset import Config
from configs.errors import ConfigError
from configs.schedule import ScheduleConfig, ScheduledRun


def read_schedules(places: Sequence[Path]) -> dict[Path, ScheduleConfig]:
    """Schedules by their files; a folder stands for every YAML file in it. Raises ConfigError with every problem."""
    found: dict[Path, ScheduleConfig] = {}
    problems: list[str] = []
    for path in _files(places, problems):
        try:
            found[path] = read_schedule(path)
        except ConfigError as error:
            problems.append(str(error))
    names = [each.name for each in found.values()]
    for name in sorted({name for name in names if names.count(name) > 1}):
        there = ", ".join(str(path) for path, each in found.items() if each.name == name)
        problems.append(f"{name} is the name of several schedules, each of which needs its own: {there}")
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def _files(places: Iterable[Path], problems: list[str]) -> Iterable[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(place.glob("*.yaml"))
        elif place.is_file():
            yield place
        else:
            problems.append(f"{place}: there is no such file or folder")


def read_schedule(path: Path) -> ScheduleConfig:
    """A schedule's file. Raises ConfigError with every problem in it."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or set(content) != {"schedule"}:
        raise ConfigError(f"{path} is no schedule: it must have one top-level key, `schedule`")
    try:
        return ScheduleConfig.model_validate_json(json.dumps(content["schedule"]), strict=True)
    except TypeError as error:  # json: dates and the like
        raise ConfigError(f"{path}: {error}") from None
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_told(each)}" for each in error.errors())) from None


def arguments_of(path: Path, run: ScheduledRun) -> list[str]:
    """What describes one run of a schedule on the command line."""
    return [str(path.parent / run.config), *run.overrides]


def _told(detail: Any) -> str:
    """One problem: where, what, and what was perhaps meant."""
    place = ".".join(("schedule", *map(str, detail["loc"])))
    if detail["type"] == "extra_forbidden":
        *_, key = detail["loc"]
        owner: type[Config] = ScheduledRun if "runs" in detail["loc"][:-1] else ScheduleConfig
        near = difflib.get_close_matches(str(key), owner.model_fields, n=1)
        allowed = f"; did you mean {near[0]}?" if near else f"; allowed here: {', '.join(owner.model_fields)}"
        return f"{place}: unknown key{allowed}"
    message = str(detail.get("ctx", {}).get("error") or detail["msg"])
    return f"{place}: {message}"
