"""Whether Kueue's queue is there and could ever admit one job of the run."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import yaml

from configs.schema import RunConfig
from k8s.api import Api, Object, RefusedError, Resource
from k8s.checks.demand import Amounts, amount, of_job, of_node, parts, show
from k8s.checks.finding import Finding, failed, ok, skipped, unknown, unreadable

QUEUE = "queue"
GROUP = "kueue.x-k8s.io"
SETTINGS = "/api/v1/namespaces/kueue-system/configmaps/kueue-manager-config"
ENDLESS = Decimal("Infinity")
SMALLER = "make cluster.nodes or cluster.node smaller, name another cluster.queue, or have its quota raised"


def queue(run: RunConfig, api: Api) -> Iterator[Finding]:
    """The LocalQueue, its ClusterQueue, and that one's quota."""
    cluster = run.cluster
    if cluster.queue is None:
        yield skipped(QUEUE, "cluster.queue is not given: jobs start at once")
        return
    group = api.read(f"/apis/{GROUP}")
    if group is None:
        remedy = "install Kueue, or leave cluster.queue out to have jobs start at once"
        yield failed(QUEUE, f"cluster.queue={cluster.queue}, but the cluster has no Kueue", remedy)
        return
    version = group["preferredVersion"]["version"]
    local = api.get(Resource(GROUP, version, "localqueues"), cluster.queue)
    if local is None:
        remedy = (
            f"kubectl get localqueue -n {cluster.namespace} lists them; apply the one of k8s/manifests, or name another"
        )
        yield failed(QUEUE, f"LocalQueue {cluster.queue} does not exist in namespace {cluster.namespace}", remedy)
        return
    if held := stopped(local):
        yield failed(QUEUE, f"LocalQueue {cluster.queue} admits nothing: {held}", "ask whoever runs the queues")
        return
    name = local["spec"]["clusterQueue"]
    clusters = Resource(GROUP, version, "clusterqueues", namespaced=False)
    try:
        found = api.get(clusters, name)
    except RefusedError as error:
        yield unreadable(f"{QUEUE}'s quota", "get clusterqueues", error)
        yield ok(QUEUE, f"LocalQueue {cluster.queue} of ClusterQueue {name}")
        return
    if found is None:
        remedy = "ask whoever runs the queues, or name another cluster.queue"
        yield failed(QUEUE, f"ClusterQueue {name} of LocalQueue {cluster.queue} does not exist", remedy)
        return
    yield _admits(run, api, found, clusters)


def stopped(found: Object) -> str:
    """Why a queue admits nothing now; empty where it does."""
    if found["spec"].get("stopPolicy") not in (None, "None"):
        return f"its stopPolicy is {found['spec']['stopPolicy']}"
    conditions = (found.get("status") or {}).get("conditions") or ()
    inactive = [each for each in conditions if each["type"] == "Active" and each["status"] == "False"]
    return inactive[0].get("message") or "it is not active" if inactive else ""


def _admits(run: RunConfig, api: Api, found: Object, clusters: Resource) -> Finding:
    """Whether a ClusterQueue could ever admit one job."""
    name, ask = found["metadata"]["name"], "ask whoever runs the queues"
    if held := stopped(found):
        return failed(QUEUE, f"ClusterQueue {name} admits nothing: {held}", ask)
    if found["spec"].get("namespaceSelector") is None:
        return failed(QUEUE, f"ClusterQueue {name} has no namespaceSelector, so it admits no namespace", ask)
    groups = found["spec"].get("resourceGroups") or []
    covered = {resource for each in groups for resource in each["coveredResources"]}
    if bare := [resource for resource in of_node(run) if resource not in covered]:
        return _uncovered(api, name, bare)
    lent = borrowable(api, found, clusters)
    if short := [told for each in groups for told in _short(run, each, lent)]:
        return failed(QUEUE, f"ClusterQueue {name} can never admit a job: {'; '.join(short)}", SMALLER)
    return ok(QUEUE, f"LocalQueue {run.cluster.queue}: ClusterQueue {name} is large enough for one job")


def _uncovered(api: Api, name: str, bare: list[str]) -> Finding:
    """A job that asks for what no flavor covers waits for ever, unless Kueue is told to overlook that resource."""
    says = f"ClusterQueue {name} does not cover {', '.join(bare)}, which the pods ask for"
    remedy = "have it added to its coveredResources with a quota, or to excludeResourcePrefixes of Kueue's own settings"
    try:
        settings = api.read(SETTINGS)
    except RefusedError:
        return unknown(
            QUEUE, f"{says}; whether Kueue overlooks it is not known without the right to get configmaps", remedy
        )
    prefixes = _overlooked(settings)
    if all(resource.startswith(tuple(prefixes)) for resource in bare):
        return ok(QUEUE, f"ClusterQueue {name}; Kueue overlooks {', '.join(bare)}")
    return failed(QUEUE, f"{says}: a job would wait for ever", remedy)


def _overlooked(settings: Object | None) -> list[str]:
    """Beginnings of the names of resources that Kueue does not count."""
    try:
        text = ((settings or {}).get("data") or {})["controller_manager_config.yaml"]
        return list(yaml.safe_load(text)["resources"]["excludeResourcePrefixes"])
    except (KeyError, TypeError, yaml.YAMLError):
        return []


def borrowable(api: Api, found: Object, clusters: Resource) -> Amounts | None:
    """The most that others of its cohort could lend, by resource; nothing without one, None where no limit is known.

    An upper bound: what they keep for themselves is not taken off.
    """
    cohort = _cohort(found)
    if not cohort:
        return {}
    try:
        if api.get(Resource(clusters.group, clusters.version, "cohorts", namespaced=False), cohort) is not None:
            return None  # it may have quota of its own, and parents
        others = [each for each in api.list(clusters)[0] if _cohort(each) == cohort]
    except RefusedError:
        return None
    total: Amounts = {}
    for each in others:
        if each["metadata"]["name"] == found["metadata"]["name"]:
            continue
        for resource, _, nominal, _ in _rows(each):
            total[resource] = total.get(resource, Decimal(0)) + nominal
    return total


def _cohort(found: Object) -> str:
    return found["spec"].get("cohortName") or found["spec"].get("cohort") or ""


def _rows(found: Object) -> Iterator[tuple[str, str, Decimal, Any]]:
    """A ClusterQueue's quotas: resource, flavor, nominal quota, and borrowing limit where it has one."""
    for group in found["spec"].get("resourceGroups") or ():
        for flavor in group["flavors"]:
            for each in flavor["resources"]:
                yield each["name"], flavor["name"], amount(each["nominalQuota"]), each.get("borrowingLimit")


def _short(run: RunConfig, group: Object, lent: Amounts | None) -> Iterator[str]:
    """How a group of resources falls short of one job: in all, or in each flavor, of which a part of a job uses one."""
    flavors = {flavor["name"]: _capacity(flavor, lent) for flavor in group["flavors"]}
    asked, all_of_it = of_node(run), of_job(run)
    covered = [resource for resource in group["coveredResources"] if resource in asked]
    enough = True
    for resource in covered:
        most = sum((each.get(resource, Decimal(0)) for each in flavors.values()), Decimal(0))
        if all_of_it[resource] > most:
            enough = False
            yield f"{resource}={show(resource, all_of_it[resource])} asked for, {show(resource, most)} at most"
    for pods in parts(run) if enough else ():
        fits = [all(each.get(r, Decimal(0)) >= asked[r] * pods for r in covered) for each in flavors.values()]
        if not any(fits):
            yield f"no one flavor of {', '.join(flavors)} has room for {pods} pods at once"


def _capacity(flavor: Object, lent: Amounts | None) -> Amounts:
    """The most of each resource that a flavor could ever give."""
    found: Amounts = {}
    for each in flavor["resources"]:
        name, limit = each["name"], each.get("borrowingLimit")
        more = ENDLESS if lent is None else lent.get(name, Decimal(0))
        if limit is not None:
            more = min(more, amount(limit))
        found[name] = amount(each["nominalQuota"]) + more
    return found
