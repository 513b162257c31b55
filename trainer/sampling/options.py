"""A run's settings with those of the command line in their place, checked as a configuration is."""

from collections.abc import Mapping
from typing import Any

from configs.load import validate
from configs.schema import RunConfig


def overridden(run: RunConfig, section: tuple[str, ...], values: Mapping[str, Any]) -> RunConfig:
    """The run with `values` in a section of its task. Raises ConfigError as for a file, naming the keys."""
    tree = run.model_dump(mode="json")
    place = tree["task"]
    for name in section:
        place[name] = dict(place[name] or {})
        place = place[name]
    place |= values
    return validate(tree)
