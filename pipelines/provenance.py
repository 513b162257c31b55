"""Where the numbers of a report come from: what each was measured by, and the digests from the source to them."""

from pipelines.charts import plain
from pipelines.data_card import in_words
from pipelines.page import Table
from pipelines.traces import Record, Traces, own_digest


def protocols(traces: Traces) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each protocol's id, the metrics under it and its parts, in words."""
    if not traces.evaluation:
        return []
    under: dict[str, list[str]] = {}
    for metric in traces.evaluation["metrics"]:
        under.setdefault(metric["protocol"], []).append(metric["name"])
    return [
        (
            name,
            [
                ("of the metrics", ", ".join(under.get(name, [])) or "none"),
                *((plain(part), in_words(value)) for part, value in parts.items()),
            ],
        )
        for name, parts in traces.evaluation["protocols"].items()
    ]


def chain(traces: Traces) -> Table:
    """Each stored digest from the source to the metrics, and whether it was made from the one above."""
    manifest, checkpoint, evaluation = traces.manifest, traces.checkpoint, traces.evaluation
    absent = ("–", "not there yet")
    source = data = weights = metrics = absent
    if manifest:
        source = (", ".join(each["digest"] for each in manifest["sources"]), "the bytes that were read")
        data = (manifest["digest"], "made from this source")
    if traces.folds:
        weights = (f"{len(traces.folds)} folds", "each fold's report has its own")
    elif checkpoint:
        weights = (checkpoint["digest"], _link(checkpoint["data"], manifest, "trained on"))
    if evaluation:
        metrics = (own_digest(evaluation), _taken_from(traces))
    step = f" of step {checkpoint['step']:,}" if checkpoint else ""
    rows = [("source", source), ("data", data), (f"checkpoint{step}", weights), ("metrics", metrics)]
    caption = "Digests that the stages stored; each says which one it was made from."
    return Table(caption, [("", ""), ("digest", ""), ("link", "")], rows)


def _taken_from(traces: Traces) -> str:
    assert traces.evaluation, "only metrics that are there are taken from somewhere"
    if traces.folds:
        return "taken from the folds as they are" if traces.evaluated else "taken from folds that have changed since"
    return _link(traces.evaluation["checkpoint"], traces.checkpoint, "taken from")


def _link(said: str, above: Record | None, verb: str) -> str:
    if above is not None and said == above["digest"]:
        return f"{verb} the one above"
    return f"{verb} another one: {said[:12]}…"
