"""The workspace of each family and the overview of the nightly: functions of what is declared, without a server."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

from wandb_workspaces import expr
from wandb_workspaces.workspaces import RunsetSettings, Section, Workspace, WorkspaceSettings
from wandb_workspaces.workspaces.internal import WorkspaceViewspec

from configs.quantities import (
    FOLDS,
    HISTOGRAMS,
    OF_NETWORK,
    OF_STEP,
    RESUME,
    SAMPLES,
    STEP,
    VERDICT,
    FamilyMetrics,
    Quantity,
    label_of,
    metrics_of,
    of_gate,
    of_validation,
)
from pipelines.dashboards.names import NIGHTLY, NOWHERE, Place, display_name, families, kind_of, short_id, view_key
from pipelines.dashboards.panels import (
    CREATED,
    against_baseline,
    bars,
    curve,
    differences,
    media,
    note,
    over_nights,
    scalar,
    section,
    table,
    titled,
    verdict_is_one_of,
)
from pipelines.folds.collect import OURS, name_of
from pipelines.gate.readings import MACHINE
from pipelines.gate.verdicts import Word
from pipelines.readout import preferred

HEADLINES = 4
"""Numbers of an evaluation at the top of a family's workspace"""
GATED = 2
"""Numbers of each family that the overview of the nightly shows, as a report's headline does"""
SHOWN_RUNS = 20


def workspace_of(name: str, place: Place = NOWHERE) -> Workspace:
    """The workspace of a family, by its kind, or the overview of the nightly."""
    return nightly_workspace(place) if name == NIGHTLY else family_workspace(families()[name], place)


def to_json(workspace: Workspace) -> str:
    """Its name and everything that it shows, the same from build to build."""
    return json.dumps({"displayName": workspace.name, "spec": json.loads(spec_of(workspace))}, indent=1) + "\n"


def spec_of(workspace: Workspace) -> str:
    """What is saved of it, as W&B's own program writes it."""
    spec: WorkspaceViewspec = workspace._to_model().spec
    return spec.model_dump_json(by_alias=True, exclude_none=True)


def family_workspace(family: type, place: Place = NOWHERE) -> Workspace:
    """What every run of a family tells. Raises ConfigError where the family does not declare it."""
    kind, told = kind_of(family), metrics_of(family)
    text = getattr(family, "reads", "") == "text"
    headlines = headlines_of(told)
    return _workspace(
        kind,
        place,
        sections=[
            section("Headline", [*map(scalar, headlines[:HEADLINES]), *map(scalar, _speeds(text=text)[:1])], columns=4),
            section("Loss & validation", _losses(told)),
            section("Optimisation", _optimisation(told)),
            section("Speed & goodput", [curve(each) for each in (*_speeds(text=text), *_costs())]),
            section("Samples", _media(told), columns=2),
            section("Evaluation", map(bars, _single(told.evaluated)), is_open=False),
            section("Evaluation tables", [table(key) for key in told.tables if key != FOLDS], columns=2),
            *_cross_validation(told, headlines),
            section("Lineage", [note(LINEAGE), differences()], columns=2, is_open=False),
        ],
        only=expr.Config("task.kind") == kind,
        columns=[each.name for each in headlines[:HEADLINES]],
    )


def headlines_of(told: FamilyMetrics) -> list[Quantity]:
    """What of an evaluation is shown first: as in a report, then the others as they are declared."""
    single = {each.name.rpartition("/")[2]: each for each in reversed(_single(told.evaluated))}
    first = [single[name] for name in preferred(single)]
    return [*first, *(each for each in _single(told.evaluated) if each not in first)]


def _single(quantities: tuple[Quantity, ...]) -> list[Quantity]:
    """Those that can be asked for by name."""
    return [each for each in quantities if each.is_one]


def _losses(told: FamilyMetrics) -> Iterator[Any]:
    """Training beside validation where both have a number of one name and unit, and what only one of them has."""
    validated = {each.name: each for each in told.validation}
    for turn in told.turns:
        for each in told.scalars:
            own, other = _of_turn(each, turn, told), validated.get(each.name)
            pair = [of_validation(each.name)] if other and other.unit == each.unit and len(told.turns) == 1 else []
            yield curve(own, beside=pair, noisy=True)
    for each in told.validation:
        yield curve(replace(each, name=of_validation(each.name)))


def _optimisation(told: FamilyMetrics) -> Iterator[Any]:
    for turn in told.turns:
        for each in OF_NETWORK:
            yield curve(_of_turn(each, turn, told), log=each.name == "grad_norm")


def _of_turn(each: Quantity, turn: str, told: FamilyMetrics) -> Quantity:
    return replace(each, name=f"{label_of(turn, told.turns)}/{each.name}")


def _speeds(*, text: bool) -> list[Quantity]:
    """What is better when higher; tokens only where samples are texts."""
    return [each for each in OF_STEP if each.better == "higher" and (text or "tokens" not in each.unit)]


def _costs() -> list[Quantity]:
    return [each for each in OF_STEP if each.better == "lower"]


def _media(told: FamilyMetrics) -> list[Any]:
    weights = [f"{HISTOGRAMS}/{turn}" for turn in told.turns]
    return [media("Samples by step", SAMPLES), media("Weights by step", *weights)]


def _cross_validation(told: FamilyMetrics, headlines: list[Quantity]) -> Iterator[Section]:
    """Means over folds, for the families that declare the table of folds."""
    if FOLDS in told.tables:
        held_out = [each for each in headlines if each.name.startswith(OURS)]
        means = [
            bars(replace(each, name=name_of(each.name)), titled(each, ", mean over folds"))
            for each in held_out[:HEADLINES]
        ]
        yield section("Cross-validation", [table(FOLDS), *means], is_open=False)


LINEAGE = (
    "**Where this came from.** Data, checkpoint and evaluation are artifacts of the runs of one group: open a run's "
    "*Artifacts* tab, then *Lineage*. `trainworks explain RUN` verifies each digest from the raw bytes to the metric."
)
ABOUT_NIGHTLY = (
    "**The nightly.** Each family's runs with several seeds against its baseline: `better`, `same`, `worse` or `not "
    "comparable`, by the noise of seeds. *gate* is the mean of the new runs, *baseline* that of the stored ones."
)


def nightly_workspace(place: Place = NOWHERE) -> Workspace:
    """Verdicts of the nightly gate, and what they are made of, for all families."""
    quality, machine = _gated(), _machine()
    return _workspace(
        NIGHTLY,
        place,
        sections=[
            section("Headline", [note(ABOUT_NIGHTLY), differences()], columns=2),
            section("Quality", map(against_baseline, quality)),
            section("Quality over nights", map(over_nights, quality)),
            section("Speed, memory & resume", map(against_baseline, machine)),
            section("Speed, memory & resume over nights", map(over_nights, machine), is_open=False),
            section("Lineage", [note(LINEAGE)], columns=2, is_open=False),
        ],
        only=verdict_is_one_of(get_args(Word), VERDICT),
        columns=[VERDICT, *(of_gate(each.name) for each in quality)],
    )


def _gated() -> list[Quantity]:
    """The first numbers of every family; of those that several have under one name, all units."""
    found: dict[str, Quantity] = {}
    for family in families().values():
        always = [each for each in headlines_of(metrics_of(family)) if not each.asked]
        for each in always[:GATED]:
            other = found.get(each.name)
            units = dict.fromkeys([*(other.unit.split(" or ") if other else ()), each.unit])
            found[each.name] = replace(each, unit=" or ".join(units))
    return list(found.values())


def _machine() -> list[Quantity]:
    known: Mapping[str, Quantity] = {each.name: each for each in (*OF_STEP, RESUME)}
    return [known[name] for name in MACHINE]


def _workspace(
    name: str, place: Place, *, sections: list[Section], only: expr.FilterExpr, columns: list[str]
) -> Workspace:
    """Runs of one group stand together, then those of one job type; the newest first."""
    workspace = Workspace(
        entity=place.entity,
        project=place.project,
        name=display_name(name),
        sections=sections,
        settings=WorkspaceSettings(x_axis=STEP, max_runs=SHOWN_RUNS, tooltip_number_of_runs="all_runs"),
        runset_settings=RunsetSettings(
            filters=expr.And(only),
            groupby=[expr.Metric("Group"), expr.Metric("JobType")],
            order=[expr.Ordering(expr.Metric(CREATED), ascending=False)],
            pinned_columns=["run:state", *(f"summary:{column}" for column in columns)],
        ),
    )
    workspace._internal_name = view_key(name, place)
    workspace._internal_runset_id = short_id("run set", name)
    return workspace
