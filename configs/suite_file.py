"""A suite's file read, and each of its runs as the command line has it."""

import json
from pathlib import Path

import yaml
from pydantic import ValidationError

from configs.errors import ConfigError
from configs.load import load
from configs.schema import RunConfig
from configs.suite import SuiteConfig, SuiteRun


def is_suite(path: Path) -> bool:
    """Whether a file is a suite and not a run: by its one top-level key."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return isinstance(content, dict) and set(content) == {"suite"}


def read_suite(path: Path) -> SuiteConfig:
    """A suite's file. Raises ConfigError with every problem in it, those of its runs' configurations too."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or set(content) != {"suite"}:
        raise ConfigError(f"{path} is no suite: it must have one top-level key, `suite`")
    try:
        suite = SuiteConfig.model_validate_json(json.dumps(content["suite"]), strict=True)
    except (ValidationError, TypeError) as error:
        raise ConfigError(f"{path}: {_problems(error)}") from None
    problems = []
    for each in suite.runs:
        try:
            load_run(path, each, suite.seeds[0])
        except ConfigError as error:
            problems.append(f"suite.runs, {each.name}: {error}")
    if problems:
        raise ConfigError(f"{path}: " + "\n".join(problems))
    return suite


def _problems(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):  # json: dates and the like
        return str(error)
    found = [(".".join(map(str, ("suite", *each["loc"]))), each["msg"]) for each in error.errors()]
    return "\n".join(f"{place}: {message}" for place, message in found)


def arguments_of(path: Path, run: SuiteRun, seed: int) -> list[str]:
    """What describes one run of a suite on the command line."""
    return [str(path.parent / run.config), *run.overrides, f"seed={seed}"]


def load_run(path: Path, run: SuiteRun, seed: int) -> RunConfig:
    """One run of a suite. Raises ConfigError."""
    return load(arguments_of(path, run, seed))
