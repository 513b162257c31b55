"""Workspaces to saved views of a server: one view for each, however often they are pushed."""

from collections.abc import Sequence

from configs.errors import UserError
from pipelines.dashboards.build import spec_of, workspace_of
from pipelines.dashboards.names import Place, display_name, view_key
from pipelines.dashboards.server import Server, View, app


def push(names: Sequence[str], server: Server, place: Place) -> list[str]:
    """Save the workspaces of these names; returns a line about each."""
    saved = list(server.views(place.entity, place.project))
    chosen = {name: find(name, saved, place) for name in names}  # all, before the first is written
    told = []
    for name, view in chosen.items():
        now = server.save(place.entity, place.project, view, spec_of(workspace_of(name, place)))
        where = f"{app(server.address)}/{place.entity}/{place.project}?nw={_address_of(now.name)}"
        told.append(f"{name}: {'updated' if view.id else 'made'} {where}")
    return told


def find(name: str, saved: Sequence[View], place: Place) -> View:
    """The view that this workspace is saved in: by its key, or by what it is called; a new one where there is none.

    Raises UserError where several are called so and none has the key.
    """
    key, called = view_key(name, place), display_name(name)
    ours = [view for view in saved if view.name == key] or [view for view in saved if view.display_name == called]
    if len(ours) > 1:
        raise UserError(
            f"{place.entity}/{place.project} has {len(ours)} saved views called {called}; delete or rename all but one"
        )
    return View(ours[0].id, ours[0].name, called) if ours else View("", key, called)


def _address_of(key: str) -> str:
    """How a view's key stands in the address of a page."""
    return key.removeprefix("nw-").removesuffix("-v")
