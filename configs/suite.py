"""A suite: small runs of several families, each with several seeds, that are gated against baselines together."""

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field, ValidationError

from configs.dataset import Config
from configs.errors import ConfigError
from configs.load import load
from configs.schema import RunConfig

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]


Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)]


class SuiteRun(Config):
    """One family of the suite, a run for each seed."""

    name: Name
    """Of its run folders, NAME-seed-N, and of its baseline: lower-case letters, digits and hyphens, 32 at most"""
    config: str
    """Its configuration file, seen from the suite's"""
    overrides: tuple[str, ...] = ()
    """key.path=value, as on the command line"""


class SuiteGate(Config):
    """What the runs of a suite are compared with."""

    baseline: Name
    """Each family's baseline is named BASELINE-NAME"""
    baseline_seeds: Seeds | None = None
    """Seeds of the runs that become a baseline, those of the suite when not given. More of them are trained once, and
    every gate from then on knows the noise of seeds better
    """
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Chance of a false alarm over all metrics of a family"""
    minimum: dict[Literal["quality", "speed", "memory", "resume"], Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict
    )
    """The least change that counts, in per cent, by kind; the kinds not named have that of `trainworks gate`"""


def _names_are_different(suite: Any) -> str | None:
    names = [each.name for each in suite.runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    return f"runs: {', '.join(twice)} is the name of several; each needs one of its own" if twice else None


def _seeds_are_different(suite: Any) -> str | None:
    for name, seeds in (("seeds", suite.seeds), ("gate.baseline_seeds", suite.gate.baseline_seeds or ())):
        if len(set(seeds)) < len(seeds):
            return f"{name}={list(seeds)} must all differ"
    return None


class SuiteConfig(Config):
    """The runs, their seeds, and the gate."""

    rules: ClassVar = (_names_are_different, _seeds_are_different)

    name: Name
    """Names the suite's folder"""
    runs: Annotated[tuple[SuiteRun, ...], Field(min_length=1)]
    seeds: Seeds
    """Each run is done once with each of them"""
    gate: SuiteGate

    @property
    def baseline_seeds(self) -> tuple[int, ...]:
        """Seeds of the runs that become a baseline."""
        return self.gate.baseline_seeds or self.seeds


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
