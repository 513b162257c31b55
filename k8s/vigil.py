"""What a launcher makes of what it sees of a job: a pure account of pods, states and signs, and when it is over."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from configs.schema import RunConfig
from k8s.budget import Budget
from k8s.podview import Cause, PodView, called, vanished
from k8s.state import State

SETTLE_S = 3.0
"""How long the first failure of a start is kept before it is judged: the cause may show on another pod"""
REMINDER_S = 300.0
"""Between two lines about the same waiting"""
WORST: tuple[Cause, ...] = ("failed", "evicted", "memory", "crashed")
"""Of several causes at once the one that explains the others"""


@dataclass(frozen=True)
class Verdict:
    """How a job is to end."""

    kind: Literal["succeeded", "failed", "again", "deleted"]
    """again: this object of the job is lost, another may do better"""
    reason: str = ""
    code: int = 0
    own: bool = False
    """Whether the program itself failed, and says best why"""


@dataclass
class Incident:
    """Pods of one start that failed together."""

    members: frozenset[str]
    """Pods, by uid, that were there when the first failed: they go down with it"""
    opened: float
    causes: list[tuple[Cause, str, int | None]] = field(default_factory=list)
    """Cause, words and exit code, in the order in which they were seen"""
    counted: bool = False

    @property
    def worst(self) -> tuple[Cause, str, int | None]:
        return min(self.causes, key=lambda each: WORST.index(each[0]))


class Vigil:
    """Watches over one job. Times are seconds of one clock that only rises."""

    def __init__(self, run: RunConfig, name: str, budget: Budget, now: float) -> None:
        self.name, self.nodes, self.patience = name, run.cluster.nodes, run.cluster.patience
        self.budget = budget
        self.messages: list[str] = []
        """What a person should hear, oldest first; whoever tells it empties the list"""
        self.pods: dict[str, PodView] = {}
        self.state: State | None = None
        self.deleted = False
        self.running_s = 0.0
        """Seconds since the job left the queue"""
        self._incident: Incident | None = None
        self._sign = self._pending_since = now
        self._stuck_since: dict[str, float] = {}
        self._leaving: set[str] = set()
        """Pods, by uid, that were deleted before any of their start failed: their end is no other's doing"""
        self._failed_since: float | None = None
        self._overspent: Verdict | None = None
        self._told: dict[str, float] = {}

    def renew(self, name: str, now: float) -> None:
        """Go on with another object of the job; what was spent stays spent."""
        self.name, self.pods, self.state, self.deleted, self.running_s = name, {}, None, False, 0.0
        self._incident = self._failed_since = None
        self._leaving = set()
        self._sign = self._pending_since = now

    def pod(self, view: PodView, now: float) -> None:
        """A pod appeared or changed."""
        before = self.pods.get(view.name)
        if before and before.uid != view.uid and not before.ended:
            self._vanished(before, now)
        if before != view:
            self._sign = now
        if view.stuck:
            self._stuck_since.setdefault(view.uid, now)  # why it is stuck is told in turns of several reasons
        else:
            self._stuck_since.pop(view.uid, None)
        self.pods[view.name] = view
        if view.leaving and not (self._incident and view.uid in self._incident.members):
            self._leaving.add(view.uid)
        cleared = view.leaving and view.uid not in self._leaving  # away by the operator, as another pod had failed
        if view.cause and not cleared and not (before and before.uid == view.uid and before.cause):
            self._fell(view, view.cause, f"{called(view)} {view.words}", now)

    def gone(self, view: PodView, now: float) -> None:
        """A pod was deleted."""
        before = self.pods.pop(view.name, None)
        if before and before.uid == view.uid and not view.ended and not before.ended:
            self._vanished(before, now)

    def listed(self, views: Collection[PodView], now: float) -> None:
        """All the pods that there are: what was missed while a watch was cut shows here."""
        names = {view.name for view in views}
        for name in self.pods.keys() - names:
            self.gone(self.pods[name], now)
        for view in views:
            self.pod(view, now)

    def job(self, state: State | None, running_s: float, now: float) -> None:
        """The job's object as it is; None where there is none any more."""
        before, self.state, self.running_s = self.state, state, running_s
        self.deleted = state is None
        if state is None:
            return
        if state.phase == "queued":
            self._incident, self._sign, self._pending_since = None, now, now
            if before and before.phase != "queued":
                self.messages.append(f"{self.name}: the queue took its place back; it waits, and goes on from there")
            self._remind(f"waits in the queue{state.message and ': '}{state.message}", now)
        elif before and before.phase == "queued":
            self.messages.append(f"{self.name}: admitted")
            self._sign = self._pending_since = now

    def heard(self, now: float) -> None:
        """A rank printed something, or an API that was away is back."""
        self._sign = max(self._sign, now)

    def verdict(self, now: float) -> Verdict | None:
        """Whether the job is over, for what reason; None while it goes on."""
        if self.deleted:
            return Verdict("deleted", f"job {self.name} was deleted by somebody else", 143)
        if self.state is None:
            return None
        if self.state.phase == "succeeded":
            return Verdict("succeeded")
        if self.state.phase == "failed":
            return self._failed(now)
        if self.state.phase == "queued":
            return None
        incident = self._incident
        settled = incident and not incident.counted and now - incident.opened >= SETTLE_S
        if incident and settled:
            self._overspent = self._overspent or self._count(incident)
        return self._overspent or self._overdue(now)

    def _vanished(self, view: PodView, now: float) -> None:
        """A pod is gone of which no end was seen: where others of its start have failed, they tell more."""
        if not self._incident or view.uid not in self._incident.members:
            self._fell(view, *vanished(view), now)

    def _fell(self, view: PodView, cause: Cause, words: str, now: float) -> None:
        """A pod failed or is gone: with the others that were there, or as the first of a new incident."""
        if not self._incident or view.uid not in self._incident.members:
            if self._incident and not self._incident.counted:  # starts that fail at once must not escape the count
                self._overspent = self._overspent or self._count(self._incident)
            members = frozenset(each.uid for each in self.pods.values()) | {view.uid}
            self._incident = Incident(members, now)
        self._incident.causes.append((cause, words, view.code))

    def _count(self, incident: Incident) -> Verdict | None:
        """Charge an incident to its cause's budget; a verdict when that is spent."""
        incident.counted = True
        cause, words, code = incident.worst
        if cause == "failed":
            return None  # the operator says so next
        limit = self.budget.limits[cause]
        if not self.budget.charge(cause):
            tries = f"; {limit} further starts brought no new checkpoint" if limit else ""
            return Verdict("failed", f"{words}{tries}", code or 137)
        self.messages.append(f"{words}; starting again ({self.budget.spent(cause)} of {limit})")
        return None

    def _failed(self, now: float) -> Verdict | None:
        """The operator calls the job failed: for good, or for a reason that another start may not meet."""
        assert self.state is not None
        if self._failed_since is None:
            self._failed_since = now
        if now - self._failed_since < SETTLE_S:
            return None  # its pods may still have to be heard of
        if self._incident is None:
            reason = self.state.message or f"job {self.name} failed, and nothing says why"
            return Verdict("failed", reason, 1, own=True)
        cause, words, code = self._incident.worst
        if cause == "failed":
            return Verdict("failed", words, code or 1, own=True)
        if not self._incident.counted and (spent := self._count(self._incident)):
            return spent
        return Verdict("again", words, code or 137)

    def _overdue(self, now: float) -> Verdict | None:
        """Whether something has taken longer than it may."""
        patience, waiting = self.patience, [view for view in self.pods.values() if view.waits]
        if patience.deadline_s and self.running_s > patience.deadline_s:
            return Verdict("failed", f"it ran for patience.deadline_s={patience.deadline_s} s and was ended", 1)
        for view in waiting:
            self._remind(f"{called(view)} waits: {view.waits}", now)
        if stuck := next(
            (view for view in waiting if now - self._stuck_since.get(view.uid, now) > patience.stall_s), None
        ):
            return Verdict("failed", f"{called(stuck)} could not start for {patience.stall_s} s: {stuck.waits}", 1)
        silent = now - self._sign > patience.stall_s
        if silent and not self.pods:
            reason = f"no pod was made for {patience.stall_s} s: is the operator of {self.name} running?"
            return Verdict("failed", reason, 1)
        if waiting or len(self.pods) < self.nodes:
            return self._pending(waiting, now)
        self._pending_since = now
        return self._silent(now - self._sign) if silent else None

    def _pending(self, waiting: Collection[PodView], now: float) -> Verdict | None:
        limit, waited = self.patience.pending_s, now - self._pending_since
        if limit is None or waited <= limit:
            return None
        why = "; ".join(f"{called(view)}: {view.waits}" for view in waiting)
        return Verdict("failed", f"pods waited for patience.pending_s={limit} s{why and ': '}{why}", 1)

    def _silent(self, silent: float) -> Verdict:
        reason = f"no sign from any pod for {silent:.0f} s"
        if not self.budget.charge("crashed"):
            tries = f"{self.budget.limits['crashed']} further starts brought no new checkpoint"
            return Verdict("failed", f"{reason}; {tries}", 137)
        return Verdict("again", reason, 137)

    def _remind(self, text: str, now: float) -> None:
        if now - self._told.get(text, -REMINDER_S) >= REMINDER_S:
            self._told = {known: when for known, when in self._told.items() if now - when < REMINDER_S} | {text: now}
            self.messages.append(text)
