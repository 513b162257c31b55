"""A stage as a job of a cluster: made once whoever asks, followed to its end, and gone when nobody wants it."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from configs.errors import OutageError, UserError
from configs.folder import RunFolder, write_json
from configs.lines import LASTING, Line
from configs.schema import RunConfig
from configs.stages import checkpoints, read_record
from k8s.api import PODS, Api, RefusedError, Resource
from k8s.budget import Budget
from k8s.connect import connect
from k8s.job import LABEL, RETRIES, SPEC, Job, Owner, owner_reference
from k8s.joblog import JobLog
from k8s.launch import Outcome
from k8s.podlogs import PodLogs
from k8s.pods import termination_s
from k8s.podview import read_pod
from k8s.podwatch import Change, PodWatch
from k8s.processes import describe_signal
from k8s.pytorchjob import PYTORCHJOB
from k8s.state import Kind
from k8s.stopping import StoppedError, stoppable
from k8s.trainjob import TRAINJOB
from k8s.vigil import Verdict, Vigil

KINDS = {"pytorchjob": PYTORCHJOB, "trainjob": TRAINJOB}
"""What `cluster.job` names"""
TICK_S = 0.25
FIRST_LOOK_S, LONGEST_LOOK_S = 0.5, 15.0
"""Between two looks at the job's object: soon after a pod changed, then ever more seldom"""
DRAIN_S = 30.0
"""How long the last lines of pods that have ended may take to come"""
PROMPT_S = 900.0
"""Within this time KFP starts a failed step again; later ones somebody has asked for"""
GONE_S = 30.0
"""Beyond the pods' own time to end: how long a deleted job may take to be gone"""


def launch_job(
    run: RunConfig,
    stage: str,
    folder: RunFolder,
    show: Callable[[Line], None],
    *,
    pipeline_run: str = "",
    fold: str = "",
    volume: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Carry out a stage with ranks as a job of the kind that `run.cluster.job` names.

    The job that an earlier start of this step has left is gone on with. SIGTERM, SIGINT and SIGHUP delete it.
    """
    owner = own_pod(os.environ)
    job = Job(run, stage, str(folder.path), pipeline_run, fold, 0, owner, volume, environment or {})
    if outcome := _not_again(folder.job_mark(job.key)):
        return outcome

    def tell(text: str) -> None:
        show(Line(stage, LASTING, text))

    try:
        api = Api(connect(run.cluster.context), run.cluster.namespace, run.cluster.patience.outage_s, tell)
        with JobLauncher(api, KINDS[run.cluster.job], job, folder, show) as launcher, stoppable():
            try:
                return launcher.wait(launcher.submit(run))
            except StoppedError as stop:
                launcher.cancel(job.name)
                name = describe_signal(stop.number)
                return Outcome(128 + stop.number, f"stopped by {name}; its job was deleted")
    except (UserError, OutageError) as error:
        return Outcome(error.exit_code, str(error))


class JobLauncher:
    """One stage as a job, and its output in logs/STAGE.log; the lines meant for a person are passed to `show`.

    Its calls to the API do not grow with the job: one list of its pods and one watch at a time, and now and then a look
    at its object. Each pod's log is followed by a connection of its own.
    """

    def __init__(self, api: Api, kind: Kind, job: Job, folder: RunFolder, show: Callable[[Line], None]) -> None:
        self.api, self.kind, self.job, self.folder, self.show = api, kind, job, folder, show
        self.resource = Resource(kind.group, kind.version, kind.plural)
        self._mine = f"{LABEL}key={job.key}"
        self._record = JobLog(folder.log(job.stage), job, show)
        self._budget = Budget(job.run, lambda: checkpoints(folder), folder.job_starts(job.key))
        self._vigil = Vigil(job.run, job.name, self._budget, time.monotonic())

    def __enter__(self) -> "JobLauncher":
        return self

    def __exit__(self, *error: object) -> None:
        self._record.close()

    def submit(self, run: RunConfig) -> str:
        """Make the job, or adopt the one that is there; returns its name.

        Every attempt that is there is looked at, for the newest decides: it is adopted unless it failed or is going,
        and then the next one is made. Two launchers that do this at once meet at the same name.
        """
        while True:
            found = self._attempts()
            newest = max(found, key=attempt_of, default=None)
            if newest is not None:
                last = replace(self.job, attempt=attempt_of(newest))
                if "deletionTimestamp" not in newest["metadata"] and self.kind.state(newest).phase != "failed":
                    return self._adopt(last, newest)
                self.job = replace(last, attempt=last.attempt + 1)
            manifest = self.kind.build(self.job)
            try:
                self.api.create(self.resource, manifest)
            except RefusedError as error:
                if error.status != 409:
                    raise
                continue  # somebody was faster, perhaps this launcher before its answer was lost
            self._tell(f"job {self.job.name}: {self._size()} in {self.api.namespace}")
            return self.job.name

    def wait(self, job: str) -> Outcome:
        """Follow the job to its end, and make it again where that may help."""
        while True:
            self._vigil.renew(self.job.name, time.monotonic())
            verdict = self._follow()
            if verdict.kind != "again":
                return self._conclude(verdict)
            self._tell(f"{verdict.reason}; its job is made again")
            if not self._ended():
                self._remove(only=self.job.name)
            self.job = replace(self.job, attempt=self.job.attempt + 1)
            self.submit(self.job.run)

    def logs(self, job: str) -> Iterator[str]:
        """The job's output so far, line by line, over all its nodes."""
        with self.folder.log(self.job.stage).open(encoding="utf-8", errors="replace") as file:
            yield from file

    def cancel(self, job: str) -> None:
        """Delete every attempt at the job, and wait until its pods, which save, are gone."""
        self._budget.close()
        self._remove()

    def _attempts(self) -> list[dict[str, Any]]:
        return self.api.list(self.resource, labels=self._mine)[0]

    def _adopt(self, job: Job, found: Mapping[str, Any]) -> str:
        """Go on with a job that exists. Raises UserError when it was asked for something else."""
        manifest = self.kind.build(job)
        if found["metadata"].get("annotations", {}).get(SPEC) != manifest["metadata"]["annotations"][SPEC]:
            raise UserError(
                f"job {job.name} exists, for another configuration of this run; delete it (trainworks cancel), or give "
                "this run another name"
            )
        self.job = job
        if job.owner and owner_reference(job.owner) not in found["metadata"].get("ownerReferences", ()):
            self.api.patch(self.resource, job.name, {"metadata": {"ownerReferences": [owner_reference(job.owner)]}})
        self._tell(f"job {job.name} is there already, and is gone on with")
        return job.name

    def _follow(self) -> Verdict:
        """Watch one object of the job until there is a verdict."""
        labels = f"{self._mine},{LABEL}attempt={self.job.attempt}"
        logs = PodLogs(self.api, self._heard)
        look, pause = 0.0, FIRST_LOOK_S
        with contextlib.closing(logs), PodWatch(self.api, labels) as watch:
            while True:
                for change in watch.changes(TICK_S):
                    self._note(change, logs)
                    look, pause = min(look, time.monotonic() + FIRST_LOOK_S), FIRST_LOOK_S
                if time.monotonic() >= look:
                    self._look()
                    look, pause = time.monotonic() + pause, min(2 * pause, LONGEST_LOOK_S)
                verdict = self._vigil.verdict(time.monotonic())
                for text in self._vigil.messages:
                    self._tell(text)
                self._vigil.messages.clear()
                if verdict:
                    logs.drain(DRAIN_S)
                    return verdict

    def _note(self, change: Change, logs: PodLogs) -> None:
        """Tell the vigil of a change, and follow the logs of pods that have started."""
        if change.error:
            raise change.error
        now, views = time.monotonic(), [read_pod(pod, self.kind.node_of) for pod in change.pods]
        if change.kind == "listed":
            self._vigil.listed(views, now)
        for view in views:
            if change.kind == "deleted":
                self._vigil.gone(view, now)
            elif change.kind == "changed":
                self._vigil.pod(view, now)
            if view.phase != "Pending" and change.kind != "deleted":
                logs.follow(view.uid, view.name, view.node)
            if view.ended or change.kind == "deleted":
                logs.end(view.uid)

    def _look(self) -> None:
        asked = time.monotonic()
        found = self.api.get(self.resource, self.job.name)
        now = time.monotonic()
        if now - asked > TICK_S * 20:
            self._vigil.heard(now)  # nobody could be heard meanwhile
        state = self.kind.state(found) if found and "deletionTimestamp" not in found["metadata"] else None
        self._vigil.job(state, running_s(found), now)

    def _heard(self, node: int, line: bytes) -> None:
        self._vigil.heard(time.monotonic())
        self._record.write(node, line)

    def _conclude(self, verdict: Verdict) -> Outcome:
        """Leave nothing that nobody wants any more, and say how it ended."""
        self._budget.close()
        if verdict.kind == "succeeded":
            self._remove()
            return Outcome(0)
        if verdict.kind == "deleted":
            self._remove()
            reason = f"{verdict.reason}; go on with it: trainworks resume"
            return self._refuse_repeats(Outcome(verdict.code, reason))
        code, said = self._record.failure()
        if not self._ended():
            self._remove(only=self.job.name)
        if verdict.own and said:
            return self._refuse_repeats(Outcome(code, said))
        return Outcome(verdict.code, f"job {self.job.name}: {verdict.reason}{said and ': '}{said}")

    def _refuse_repeats(self, outcome: Outcome) -> Outcome:
        """KFP starts a step again that has failed, which would do no better here."""
        mark = {"code": outcome.code, "reason": outcome.reason, "refusals": RETRIES, "until": time.time() + PROMPT_S}
        write_json(self.folder.job_mark(self.job.key), mark)
        return outcome

    def _ended(self) -> bool:
        return self._vigil.state is not None and self._vigil.state.ended

    def _remove(self, only: str = "") -> None:
        """Delete this job, or all attempts at it, and wait until neither they nor their pods are there."""
        deadline = time.monotonic() + termination_s(self.job) + GONE_S
        while True:
            jobs = [each for each in self._attempts() if only in ("", each["metadata"]["name"])]
            for each in jobs:
                if "deletionTimestamp" not in each["metadata"]:
                    self.api.delete(self.resource, each["metadata"]["name"])
            attempt = f",{LABEL}attempt={self.job.attempt}" if only else ""
            pods = self.api.list(PODS, labels=self._mine + attempt)[0]
            if not jobs and not pods:
                return
            if time.monotonic() > deadline:
                left = ", ".join(each["metadata"]["name"] for each in (*jobs, *pods))
                self._tell(f"still there after {termination_s(self.job) + GONE_S:g} s, being deleted: {left}")
                return
            self.api.pause(FIRST_LOOK_S)

    def _size(self) -> str:
        nodes, ranks = self.job.run.cluster.nodes, self.job.per_node
        return f"{nodes} node{'s' * (nodes > 1)} with {ranks} rank{'s' * (ranks > 1)}{' each' * (nodes > 1)}"

    def _tell(self, text: str) -> None:
        self.show(Line(self.job.stage, LASTING, text))


def _not_again(mark: Path) -> Outcome | None:
    """How a job ended that is not made again; None once the starts that nobody asked for are over."""
    if not mark.exists():
        return None
    record = read_record(mark)
    if record["refusals"] == 0 or record["until"] < time.time():
        mark.unlink()
        return None
    write_json(mark, record | {"refusals": record["refusals"] - 1})
    return Outcome(int(record["code"]), str(record["reason"]))


def attempt_of(found: Mapping[str, Any]) -> int:
    """Which attempt an object of a job is."""
    return int(found["metadata"]["labels"][f"{LABEL}attempt"])


def running_s(found: Mapping[str, Any] | None) -> float:
    """Seconds since the operator started a job, by the cluster's clock and this one's; 0 before."""
    begun = ((found or {}).get("status") or {}).get("startTime")
    return max(0.0, time.time() - datetime.fromisoformat(begun).timestamp()) if begun else 0.0


def own_pod(environ: Mapping[str, str]) -> Owner | None:
    """The pod of this step, as KFP names it."""
    name, uid = environ.get("KFP_POD_NAME"), environ.get("KFP_POD_UID")
    return Owner(name, uid) if name and uid else None
