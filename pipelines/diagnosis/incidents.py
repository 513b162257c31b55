"""An incident in words: the node agent's, and what stacks, log and memory add to them."""

import re
from collections.abc import Mapping, Sequence

from pipelines.diagnosis.remains import Incident, Remains, StageRemains
from pipelines.diagnosis.rules import Sign
from pipelines.diagnosis.stacks import Frame, main_thread, own_frame, waits_for_peers
from pipelines.diagnosis.words import flat, size

GROWN = 1.5
"""Memory that grew this many times makes a SIGKILL one of the out-of-memory killer"""
OF_MEMORY = re.compile(r"oom[-_]kill|Out of memory: Killed process|Memory cgroup out of memory|OOMKilled")
"""The kernel and a cluster on their out-of-memory killers"""


def describe_incident(incident: Incident, stage: StageRemains, remains: Remains) -> Sign:
    """An incident in the words of the rules: the agent's, and what stacks, log and memory add to them."""
    rank, text = incident.rank, incident.reason or f"rank {incident.rank}: {incident.kind} without a reason"
    if incident.kind == "silent":
        more, rank = _standing(incident)
        text += more
    elif incident.kind == "dead" and incident.signal == "SIGKILL":
        text += _memory(stage)
    elif incident.kind == "failed" and incident.exit_code is not None:
        text = f"exit {incident.exit_code}: {text}"
    return Sign(flat(text), remains.place(incident.path), rank)


def _memory(stage: StageRemains) -> str:
    if stage.events and len(stage.events.memory) > 1:
        first, last = stage.events.memory
        if last > first * GROWN:
            return f"; memory had grown from {size(first)} to {size(last)}"
    return "; the log tells of memory" if any(OF_MEMORY.search(line.text) for line in stage.start.lines) else ""


def _standing(incident: Incident) -> tuple[str, int | None]:
    """Where the silent rank stood while the others waited, and which it was: by the stacks where several may be."""
    texts = {each.rank: incident.stack(each.rank) for each in incident.ranks if each.rank is not None}
    stacks = {rank: main_thread(text) for rank, text in texts.items()}
    waiting = [rank for rank, frames in stacks.items() if waits_for_peers(frames)]
    frozen = [rank for rank, text in texts.items() if text and not stacks[rank]]
    suspects = frozen or [rank for rank in stacks if rank not in waiting]
    alike = len({each.beats for each in incident.ranks}) == 1 and len(stacks) > 1
    if alike and len(suspects) != 1:
        return f"; all ranks {'waited for each other' if not suspects else 'stood still'}{_in_words(stacks)}", None
    rank = suspects[0] if alike else incident.rank
    if rank is None:
        return "", None
    if not (frames := stacks.get(rank) or main_thread(incident.stack(rank))):
        return f"; it gave no stack{flat(f' {incident.stack(rank)[:200]}').removeprefix('no stacks')}", rank
    peers = [other for other in waiting if other != rank]
    others = f" while {'rank' if len(peers) == 1 else 'ranks'} {', '.join(map(str, peers[:8]))} waited for it"
    verb = "waited for the others in" if rank in waiting else "stood in"
    return f"; it {verb} {own_frame(frames)}{others if peers else ''}", rank


def _in_words(stacks: Mapping[int, Sequence[Frame]]) -> str:
    """` in X and Y`: places where ranks stood, two at most."""
    places = dict.fromkeys(str(own_frame(frames)) for frames in stacks.values() if frames)
    return f" in {' and '.join([*places][:2])}" if places else ""
