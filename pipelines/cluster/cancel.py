"""Command: end a pipeline run with all that it has on the cluster. Run as `trainworks cancel CONFIG.yaml ...`."""

import sys
import time
from collections.abc import Sequence

from configs.errors import OutageError
from configs.process import command_main
from k8s.api import PODS, Object
from k8s.launch import stopping_time
from pipelines.cluster.follow import OF_RUN
from pipelines.cluster.jobs import job_pods, jobs_of
from pipelines.cluster.kfp import is_over
from pipelines.cluster.place import Place, grammar, open_place, told, words_of

LOOK_S = 1.0
BEYOND_S = 120.0
"""Beyond the time that a job's pods have to save: how long all of it may take to be gone"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 nothing remains, 1 something does, 2 there is no such run."""
    top = grammar(
        "cancel",
        "End a run on a cluster, and wait until neither its jobs nor their pods remain; checkpoints stay. "
        "Another time it finds nothing left to end.",
    )
    arguments = words_of(top, argv)

    def work() -> int:
        place = open_place(arguments)
        run = place.find(arguments.run)
        end(place, run)
        print(f"{run['display_name']}: pipeline run {run['run_id']} has ended; no job of it is left, no pod runs")
        for other in place.kfp.runs(place.name):
            if not is_over(other):
                print(f"{place.name}: pipeline run {other['run_id']} goes on; end it too: --run {other['run_id']}")
        return 0

    return command_main("cancel", work)


def end(place: Place, run: Object) -> None:
    """Terminate a pipeline run and delete its jobs. Raises OutageError when something remains for too long."""
    identity, waiting = run["run_id"], False
    if not is_over(run):
        place.kfp.change_run(identity, "terminate")
    deadline = time.monotonic() + stopping_time(place.run) + BEYOND_S
    while remains := _remains(place, identity):
        if time.monotonic() > deadline:
            raise OutageError(f"still there, being ended: {', '.join(remains)}; the same command goes on waiting")
        if not waiting:
            told(f"waiting for {', '.join(remains)}, which save first")
        waiting = True
        time.sleep(LOOK_S)


def _remains(place: Place, identity: str) -> list[str]:
    """What is still there, each job deleted: a step that was ending may have made one a moment ago."""
    jobs = jobs_of(place.api, identity)
    for job in jobs:
        if "deletionTimestamp" not in job.body["metadata"]:
            place.api.delete(job.resource, job.name)
    pods = job_pods(place.api, identity)
    steps = [pod for pod in place.api.list(PODS, labels=f"{OF_RUN}={identity}")[0] if not _ended(pod)]
    run = place.kfp.run(identity)
    going = [f"pipeline run {identity}"] if run is not None and not is_over(run) else []
    return [*going, *(job.name for job in jobs), *(pod["metadata"]["name"] for pod in (*pods, *steps))]


def _ended(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


if __name__ == "__main__":
    sys.exit(main())
