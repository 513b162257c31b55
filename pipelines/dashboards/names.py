"""Which workspaces there are and what they are called; quick to import."""

from dataclasses import dataclass
from typing import Any, get_args

from configs.folder import digest
from configs.schema import RunConfig

NIGHTLY = "nightly"
PREFIX = "trainworks"
"""Of the names of saved views, so that they are not taken for those that people make"""
ID_LETTERS = 11
"""As W&B's own ids have them"""


@dataclass(frozen=True)
class Place:
    """Where a workspace is shown."""

    entity: str
    project: str


NOWHERE = Place("entity", "project")
"""For a workspace that is looked at and not sent: nothing in it depends on the place but its key"""


def families(run: type[RunConfig] = RunConfig) -> dict[str, type]:
    """The configuration classes of all families by their `kind`."""
    return {kind_of(each): each for each in get_args(run.model_fields["task"].annotation)}


def kind_of(family: Any) -> str:
    """What a family is called in configurations."""
    (kind,) = get_args(family.model_fields["kind"].annotation)
    return kind


def names() -> list[str]:
    """Every workspace that there is."""
    return [*families(), NIGHTLY]


def display_name(name: str) -> str:
    """What people read in the list of saved views."""
    return f"{PREFIX} {name}"


def view_key(name: str, place: Place) -> str:
    """The internal name of a saved view: the same for the same workspace in the same place, in W&B's form."""
    return f"nw-{short_id(PREFIX, name, place.entity, place.project)}-v"


def short_id(*parts: str) -> str:
    """An id that stays, where W&B's own program draws one."""
    return digest(list(parts))[:ID_LETTERS]
