"""A schedule: runs, or a suite, that a cluster does again and again."""

import re
from typing import Annotated, Any, ClassVar

from pydantic import Field

from configs.dataset import Config, Count

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("day of the week", 0, 6))
_NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "day of the week": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}
_PART = re.compile(r"^(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?$")


def cron_problem(cron: str) -> str | None:
    """What is wrong with five fields of cron; None where nothing is."""
    words = cron.split()
    if len(words) != len(FIELDS):
        return f"cron={cron!r} has {len(words)} fields; it must have 5: minute hour day month weekday"
    for word, (field, low, high) in zip(words, FIELDS, strict=True):
        if any(not _is_part(part, field, low, high) for part in word.split(",")):
            allowed = f"*, numbers from {low} to {high}, ranges or steps, as in 1-5 or */2"
            return f"cron={cron!r}: {field} {word!r} must be {allowed}"
    return None


def _is_part(part: str, field: str, low: int, high: int) -> bool:
    found = _PART.match(part)
    if not found:
        return False
    star, first, last, step = found.groups()
    if step is not None and not 1 <= int(step) <= high:
        return False
    if star:
        return True
    numbers = [_number(word, field, low) for word in (first, last or first)]
    return all(number is not None and low <= number <= high for number in numbers) and numbers[0] <= numbers[1]  # type: ignore[operator]


def _number(word: str, field: str, low: int) -> int | None:
    names = _NAMES.get(field, ())
    if word.lower() in names:
        return names.index(word.lower()) + low
    return int(word) if word.isdecimal() else None


def _cron_is_one(schedule: Any) -> str | None:
    return cron_problem(schedule.cron)


def _does_one_thing(schedule: Any) -> str | None:
    if (schedule.suite is None) == (not schedule.runs):
        return "it must have either runs or a suite"
    return None


def _names_are_different(schedule: Any) -> str | None:
    names = [each.name for each in schedule.runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    return f"runs: {', '.join(twice)} is the name of several; each needs one of its own" if twice else None


class ScheduledRun(Config):
    """One run of a schedule."""

    name: Name
    """Of its recurring run in KFP, SCHEDULE/NAME, and of its folders, NAME-PIPELINE-RUN"""
    config: str
    """Its configuration file, seen from the schedule's"""
    overrides: tuple[str, ...] = ()
    """key.path=value, as on the command line"""


class ScheduleConfig(Config):
    """What is done, and when. A start that was missed is not made up for: each would do the same work."""

    rules: ClassVar = (_cron_is_one, _does_one_thing, _names_are_different)

    name: Name
    """Names its recurring runs in KFP"""
    cron: str
    """Minute, hour, day of the month, month, day of the week, in the time zone of Kubeflow Pipelines: UTC, unless its
    controller was given another one (CRON_SCHEDULE_TIMEZONE)
    """
    paused: bool = False
    """Whether nothing is started for now"""
    max_concurrency: Count = 1
    """Pipeline runs of it that may go on at the same time"""
    runs: tuple[ScheduledRun, ...] = ()
    """What is started each time, each run as a pipeline of its own"""
    suite: str | None = None
    """A suite's file, seen from the schedule's, whose runs are gated against baselines in the cluster's volume"""
