"""New runs against a baseline: the verdicts, what is in quarantine, and the history that both become part of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from configs.load import differences
from pipelines.baselines import Baseline, add_verdict, earlier_versions, read_verdicts
from pipelines.gate.quarantine import entry, quarantined
from pipelines.gate.readings import Kind, Reading, require_repeats
from pipelines.gate.verdicts import ALPHA, MINIMUM, Judgement, judge

TOLD = 8
"""Keys of the configuration that differ, which a note spells out"""


def gate(
    readings: Sequence[Reading],
    baseline: Baseline,
    home: Path,
    *,
    alpha: float = ALPHA,
    minimum: Mapping[Kind, float] = MINIMUM,
) -> Judgement:
    """Judge new runs against a baseline, and add the verdicts to its history.

    Raises ConfigError unless the runs differ in seed and name alone.
    """
    require_repeats(readings)
    before = read_verdicts(baseline.name, home)
    found = judge(
        readings,
        baseline.readings,
        baseline=str(baseline),
        alpha=alpha,
        minimum=minimum,
        earlier=earlier_versions(baseline, home),
    )
    now = entry(found, readings, version=baseline.version, alpha=alpha, minimum=minimum)
    add_verdict(baseline.name, home, now)
    held = quarantined([*before, now])
    verdicts = tuple(replace(each, quarantined=each.name in held) for each in found.verdicts)
    return replace(found, verdicts=verdicts, notes=tuple(notes(readings, baseline, held)))


def notes(readings: Sequence[Reading], baseline: Baseline, held: frozenset[str]) -> Iterator[str]:
    """What a reader should know beside the verdicts."""
    changed = list(differences(readings[0].config, baseline.readings[0].config))
    if changed:
        more = f"; and {len(changed) - TOLD} more keys" if len(changed) > TOLD else ""
        yield f"another configuration than the baseline's: {'; '.join(changed[:TOLD])}{more}"
    if len(readings) == len(baseline.readings) == 1:
        yield "one run on each side: what another seed would change is not known; 3 seeds each tell it"
    if held:
        yield f"in quarantine, shown and not counted, for verdicts that change to and fro: {', '.join(sorted(held))}"
