"""Run folders as several of them are shown together."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from configs.errors import ConfigError, DamageError
from configs.folder import RunFolder
from pipelines.costs import Priced
from pipelines.readout import Metric, Scores, has_value
from pipelines.traces import Traces, read_traces, state


@dataclass(frozen=True)
class Entry:
    """A run folder and what can be read of it."""

    name: str
    folder: RunFolder
    traces: Traces | None
    state: str

    @property
    def scores(self) -> Scores:
        return self.traces.scores if self.traces else Scores.of([])

    @property
    def headline(self) -> Metric | None:
        """The metric that is shown first; None before the evaluation, or of a model that has run away."""
        metric = next((self.scores.model[quantity] for quantity in self.scores.headlines), None)
        return metric if metric and has_value(metric) else None

    @property
    def priced(self) -> Priced | None:
        """The headline and what it costs; None without either."""
        cost = self.traces.cost if self.traces else None
        return Priced(self.name, self.headline, cost) if self.headline and cost else None


def read_entry(folder: RunFolder) -> Entry:
    """A run, finished or not, or the reason why it cannot be read."""
    name = folder.path.resolve().name
    try:
        traces = read_traces(folder)
    except (ConfigError, DamageError) as error:
        return Entry(name, folder, None, f"cannot be read: {error}")
    return Entry(name, folder, traces, state(traces))


def by_protocol(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Evaluated runs by the protocol of their headline, where several have the same."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.headline:
            found[entry.headline["protocol"]].append(entry)
    return {protocol: shared for protocol, shared in found.items() if len(shared) > 1}
