"""From what a run left behind to one cause: which stage it is about, what its signs tell, and how sure that is."""

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.diagnosis.causes import RULES
from pipelines.diagnosis.incidents import OF_MEMORY, describe_incident
from pipelines.diagnosis.logs import Raised, Start, exceptions
from pipelines.diagnosis.remains import Incident, Remains, StageRemains
from pipelines.diagnosis.rules import Finding, Sign, Sure, findings, first_cause
from pipelines.diagnosis.words import flat, size

State = Literal["completed", "running", "failed", "never started"]

RECENT_S = 60.0
"""Where there is no lock to ask, an event as new as this means that the run goes on"""
FULL_BYTES = 64 << 20
"""Less than this is a full disk to a checkpoint"""
_LOUD = re.compile(
    r"^(?:Fatal Python error: |terminate called |\[[EF]\d{4} |\S*\s*NCCL WARN|\s+exitcode\s+: -\d+ )"
    rf"|DataLoader worker \(pid|CUDA error:|{OF_MEMORY.pattern}"
)
"""Lines that libraries print without an exception"""
_WIDE = 300  # characters of a line that are looked at
_MOST = 200  # signs of a log that are looked at: an error that repeats for ever was told by then
_NO_CAUSE = re.compile(r"(?i:\bwandb\b|W&B)|^(?:ChildFailedError|SignalException)\b")
"""Trouble of a view of the run, which never ends it; torch.distributed.run's words on what ranks said before"""


@dataclass(frozen=True)
class Verdict:
    """What happened and what to do."""

    state: State
    cause: str
    sentence: str
    action: str
    sure: Sure = "certain"
    stage: str | None = None
    rank: int | None = None
    step: int | None = None
    sign: Sign | None = None
    """What the cause was read from"""
    others: Sequence[Finding] = ()
    """What else was found"""


def judge(remains: Remains) -> Verdict:
    """The one cause, or that there is none."""
    stages = {stage.name: stage for stage in remains.stages}
    for stage in remains.stages:
        if stage.held:
            return _running(stage, remains, f"process {stage.held} works in its folder", "certain")
    open_ones = [stage for stage in remains.stages if _has_traces(stage, remains) and not _is_done(stage, remains)]
    if open_ones:
        stage = max(open_ones, key=lambda each: each.seen)  # the last to show a sign of life; of equals the first
        fresh = stage.events and stage.events.seen and abs(time.time() - stage.events.seen) < RECENT_S
        if fresh and stage.held is None and not stage.start.failures and not final_incident(stage):
            return _running(stage, remains, "its newest event is less than a minute old", "likely")
        return _failed(stage, remains)
    done = [name for name, stage in stages.items() if _is_done(stage, remains)]
    if not done:
        sentence = "nothing of it was ever started: there is no log, no event and no data"
        return Verdict("never started", "never started", sentence, "start it with `trainworks run`")
    missing = [name for name in stages if name not in done]
    sentence = f"nothing is wrong: {', '.join(done)} completed"
    if missing:
        sentence += f"; {', '.join(missing)} not started yet"
    return Verdict("completed", "none", sentence, f"go on with `trainworks {missing[0]}`" if missing else "nothing")


def _running(stage: StageRemains, remains: Remains, why: str, sure: Sure) -> Verdict:
    step = stage.events.step if stage.events else None
    return Verdict(
        "running",
        "none",
        f"it is running: {stage.name} {_when(stage, None, remains)}, and {why}",
        "nothing; ask again when it stands still",
        sure,
        stage.name,
        step=step,
    )


def _has_traces(stage: StageRemains, remains: Remains) -> bool:
    return bool(stage.start.lines or stage.incidents or stage.events or _told_by_pipeline(stage, remains))


def _is_done(stage: StageRemains, remains: Remains) -> bool:
    """Whether the stage's product is there and its last start did not fail since."""
    failed = stage.start.failures and not stage.start.went_on
    return stage.product and not (failed or final_incident(stage) or _told_by_pipeline(stage, remains))


def _told_by_pipeline(stage: StageRemains, remains: Remains) -> list[Sign]:
    """What the pipeline says of a stage's failure and the stage's own log does not: it may fail before it has one."""
    own = {failure.reason for failure in stage.start.failures}
    if remains.pipeline_seen < stage.seen or (stage.product and stage.name != "prepare"):
        return []
    place = remains.place(remains.pipeline.path)
    return [
        Sign(f"exit {each.code}: {flat(each.reason)}", f"{place}:{each.number}")
        for each in remains.pipeline.failures[-1:]
        if each.stage == stage.name and each.reason not in own
    ]


def final_incident(stage: StageRemains) -> Incident | None:
    """The incident that ended the last start; None where that one ended otherwise, or goes on."""
    if not stage.incidents or stage.incidents[-1].restarted:
        return None
    last, begun = stage.incidents[-1], stage.events.begun if stage.events else None
    if last.time is not None and begun is not None and last.time < begun:
        return None
    if (
        stage.start.lines and stage.start.path.parent != last.path
    ):  # the agent's last word of a start is the reason of the incident
        told = stage.start.failures[-1].reason if stage.start.failures else None
        return last if told == last.reason else None
    return last


def final_incidents(stage: StageRemains) -> list[Incident]:
    """The final incident and those that other nodes' agents wrote of the same end, in the order of time."""
    last = final_incident(stage)
    if last is None:
        return []
    found, known = [last], {each.rank for each in last.ranks}
    for earlier in reversed(stage.incidents[:-1]):
        ranks = {each.rank for each in earlier.ranks}
        if earlier.restarted or not ranks or not known or ranks & known:
            break
        found.append(earlier)
        known |= ranks
    return sorted(found, key=lambda each: each.time or 0.0)


def _failed(stage: StageRemains, remains: Remains) -> Verdict:
    told, shown = list(findings(_told(stage, remains), RULES)), list(findings(_shown(stage.start, remains), RULES))
    cause = first_cause(told)
    if cause is None or cause.rule.consequence:
        by_log = first_cause(shown)
        cause = by_log if by_log and (cause is None or not by_log.rule.consequence) else cause
    elif cause.rule.vague:
        cause = _behind(cause, stage, remains) or cause
    cause = cause or next(findings([_no_word(stage, remains)], RULES))
    others = [each for each in (*told, *shown) if each.sign != cause.sign]
    return _verdict(cause, others, stage, remains)


def _told(stage: StageRemains, remains: Remains) -> Iterator[Sign]:
    """What was said of the end on purpose: by the node agent, which knows who was first, then by the ranks."""
    incident, events = final_incident(stage), stage.events
    for each in final_incidents(stage):
        yield describe_incident(each, stage, remains)
    place = remains.place(stage.start.path)
    for failure in stage.start.failures[-1:] if incident else stage.start.failures:
        rank = incident.rank if incident else _rank(failure.reason)
        yield Sign(f"exit {failure.code}: {flat(failure.reason)}", f"{place}:{failure.number}", rank)
    if events and events.status != "completed":
        for anomaly in events.anomalies[-1:]:
            if anomaly.get("action") == "stop":
                yield Sign(flat(str(anomaly.get("reason"))), remains.place(events.path))
        if events.word:
            yield Sign(flat(events.word), remains.place(events.path))
    yield from _told_by_pipeline(stage, remains)


def _shown(start: Start, remains: Remains) -> Iterator[Sign]:
    """Exceptions and cries of libraries in a log, in its order."""
    place = remains.place(start.path)
    raised = [(each.number, str(each), each.rank) for each in exceptions(start.lines)]
    loud = [(line.number, line.text.strip(), None) for line in start.lines if _LOUD.search(line.text[:_WIDE])]
    for number, text, rank in sorted(raised + loud, key=lambda each: each[0])[:_MOST]:
        if not _NO_CAUSE.search(text):
            yield Sign(text, f"{place}:{number}", rank)


def _behind(cause: Finding, stage: StageRemains, remains: Remains) -> Finding | None:
    """What the traceback of a failure adds: the cause that it was raised from, or where in our own code it was."""
    raised: list[Raised] = list(exceptions(stage.start.lines))
    chain = next((each.chain for each in reversed(raised) if each.kind in cause.sign.text), None)
    place = remains.place(stage.start.path)
    signs = [
        Sign(str(each), f"{place}:{each.number}", each.rank if each.rank is not None else cause.sign.rank)
        for each in raised
        if each.chain == chain
    ]
    every = [each for each in findings(signs, RULES) if not each.rule.consequence]
    return next((each for each in every if not each.rule.vague), every[-1] if every else None)


def _no_word(stage: StageRemains, remains: Remains) -> Sign:
    text = "ended without a word"
    if remains.free_bytes is not None and remains.free_bytes < FULL_BYTES:
        text += f"; the disk has {size(remains.free_bytes)} left"
    last = stage.start.lines[-1].number if stage.start.lines else 0
    return Sign(text, f"{remains.place(stage.start.path)}:{last}" if last else remains.place(stage.start.path))


def _rank(reason: str) -> int | None:
    found = re.match(r"rank (\d+)\b", reason)
    return int(found[1]) if found else None


def _verdict(cause: Finding, others: Sequence[Finding], stage: StageRemains, remains: Remains) -> Verdict:
    """Fill the rule's sentences in."""
    sign, rank, parts = cause.sign, cause.sign.rank, cause.parts
    told_step = int(parts["step"]) if parts.get("step") else None
    if told_step is None:
        ends = [each for incident in final_incidents(stage) for each in incident.ranks]
        told_step = next((each.step for each in ends if rank in (None, each.rank)), None)
    words = defaultdict(
        str, {name: re.sub(r"^(?:exit \d+: )?(?:rank \d+: )?", "", part) for name, part in parts.items()}
    )
    unknown = "all ranks" if "; all ranks " in sign.text else "it" if stage.name == "prepare" else "a rank"
    words |= {
        "who": f"rank {rank}" if rank is not None else unknown,
        "when": _when(stage, told_step, remains),
        "stage": stage.name,
        "again": _again(stage, remains),
    }
    sentence, action = (_fill(text, words) for text in (cause.rule.sentence, cause.rule.action))
    step = told_step if told_step is not None else stage.events.step if stage.events else None
    return Verdict(
        *("failed", cause.rule.name, sentence, action, cause.rule.sure),
        stage=stage.name,
        rank=rank,
        step=step,
        sign=sign,
        others=others,
    )


def _when(stage: StageRemains, step: int | None, remains: Remains) -> str:
    if stage.name != "train":
        return ""
    of = f" of {remains.steps}" if remains.steps else ""
    if step is not None:
        return f"at step {step}{of}"
    done = stage.events.step if stage.events else None
    return f"after step {done}{of}" if done else "before its first step"


def _again(stage: StageRemains, remains: Remains) -> str:
    """What the same command does now."""
    if stage.name != "train":
        return "The same command goes on."
    whole = next((each.step for each in remains.checkpoints if each.fault is None), None)
    if whole is None:
        return "Nothing is saved yet: the same command begins again."
    return f"The same command goes on from step {whole}, which is saved."


def _fill(template: str, words: Mapping[str, str]) -> str:
    """A sentence with its words; what is not known leaves no hole."""
    text = flat(template.format_map(words).replace(" ()", ""))
    text = re.sub(r" ([:;,])", r"\1", text)
    return text[:1].upper() + text[1:]
