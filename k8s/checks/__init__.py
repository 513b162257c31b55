"""What has to hold for a run on a cluster, each looked at by a small function that says what it found and the remedy.

A check that may not look says so, and never stands in the way.
"""

from collections.abc import Iterator

from configs.schema import RunConfig
from k8s.api import Api
from k8s.checks import kinds, names, nodes, queue, quota, reach, rights, services, workspace
from k8s.checks.finding import Check, Finding, skipped

PREFLIGHT = (
    Check(kinds.KIND, "list kinds", kinds.kind_served),
    Check(kinds.RUNTIME, "get clustertrainingruntimes", kinds.runtime),
    Check(rights.NAME, "create selfsubjectaccessreviews", rights.rights),
    Check(services.PIPELINES, "get services/proxy", services.pipelines),
    Check(names.IMAGE, "nothing", names.image),
    Check(workspace.WORKSPACE, "get persistentvolumeclaims and storageclasses", workspace.workspace),
    Check(quota.QUOTA, "list resourcequotas", quota.quota),
    Check(quota.LIMITS, "list limitranges", quota.limits),
    Check(queue.QUEUE, "get localqueues", queue.queue),
    Check(names.PRIORITY, "get priorityclasses", names.priority),
    Check(names.ACCOUNT, "get serviceaccounts", names.account),
    Check(names.SECRETS, "get secrets", names.secrets),
)
"""What must hold before anything is made for a run: what fails here could not come right by waiting"""
NAMESPACE = Check(reach.NAMESPACE, "get namespaces", reach.namespace)
MACHINES = Check(nodes.MACHINES, "list nodes", nodes.machines)


def preflight(run: RunConfig, api: Api) -> list[str]:
    """What stands in a run's way, each in one line with its remedy; empty when nothing does. Makes nothing.

    Raises OutageError when the API stays away, RefusedError when the credentials expire meanwhile.
    """
    found = [each for each in on_cluster(run, api, PREFLIGHT) if each.state == "failed"]
    return [f"{each.name}: {each.says}; {each.remedy}" for each in found]


def examine(run: RunConfig | None, api: Api | None) -> Iterator[Finding]:
    """All that can be known of the cluster for a run, as it is found; nothing without an API."""
    if api is None:
        return
    if run is None:
        yield reach.reachable(api)
        yield skipped("the rest", "no configuration was given to look for")
        return
    yield from on_cluster(run, api, (*PREFLIGHT, MACHINES))


def on_cluster(run: RunConfig, api: Api, checks: tuple[Check, ...]) -> Iterator[Finding]:
    """The API and the namespace first: without them nothing else can be known."""
    answer = reach.reachable(api)
    yield answer
    if answer.state == "failed":
        return
    for finding in NAMESPACE.findings(run, api):
        yield finding
        if finding.state == "failed":
            yield skipped("the rest", f"namespace {run.cluster.namespace} is not there to look at")
            return
    for check in checks:
        yield from check.findings(run, api)
