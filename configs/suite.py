"""A suite: small runs of several families, each with several seeds, that are gated against baselines together."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from configs.dataset import Config

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
