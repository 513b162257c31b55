"""Whether one job fits into what the namespace is allowed at most: what exceeds it can never be admitted."""

from collections.abc import Iterator
from decimal import Decimal

from configs.schema import RunConfig
from k8s.api import Api, Object, Resource
from k8s.checks.demand import Amounts, amount, amounts, of_job, of_node, show
from k8s.checks.finding import Finding, failed, ok
from k8s.checks.kinds import KINDS

QUOTA, LIMITS = "quota", "limit range"
QUOTAS = Resource("", "v1", "resourcequotas")
RANGES = Resource("", "v1", "limitranges")
SMALLER = "make cluster.nodes or cluster.node smaller, or have it raised"


def quota(run: RunConfig, api: Api) -> Iterator[Finding]:
    """One job against each ResourceQuota that counts its pods; what is in use now passes, the limit stays."""
    found = [each for each in api.list(QUOTAS)[0] if counts(each, run)]
    needs, short = needed(run), []
    for each in found:
        for resource, most in amounts(each["spec"].get("hard")).items():
            if needs.get(resource, Decimal(0)) > most:
                asked, allowed = show(resource, needs[resource]), show(resource, most)
                short.append(f"{each['metadata']['name']} allows {resource}={allowed}, one job asks for {asked}")
    if short:
        yield failed(QUOTA, f"a job can never be admitted: {'; '.join(short)}", SMALLER)
    else:
        yield ok(QUOTA, f"one job fits into {len(found)} of the namespace" if found else "the namespace has none")


def needed(run: RunConfig) -> Amounts:
    """What one job counts for, under every name by which a quota may count it."""
    cluster, kind = run.cluster, KINDS[run.cluster.job]
    found = {
        "pods": Decimal(cluster.nodes),
        "count/pods": Decimal(cluster.nodes),
        f"count/{kind.plural}.{kind.group}": Decimal(1),
    }
    for resource, each in of_job(run).items():
        found |= {resource: each, f"requests.{resource}": each, f"limits.{resource}": each}
    if cluster.workspace.claim is None:
        size, name = amount(cluster.workspace.size), cluster.workspace.storage_class
        found |= {"persistentvolumeclaims": Decimal(1), "requests.storage": size}
        if name:
            found[f"{name}.storageclass.storage.k8s.io/requests.storage"] = size
    return found


def counts(found: Object, run: RunConfig) -> bool:
    """Whether a quota's scopes hold for the job's pods: with requests, without a deadline of their own."""
    if {"BestEffort", "Terminating", "CrossNamespacePodAffinity"} & set(found["spec"].get("scopes") or ()):
        return False
    selector = (found["spec"].get("scopeSelector") or {}).get("matchExpressions") or ()
    return all(_holds(each, run) for each in selector)


def _holds(term: Object, run: RunConfig) -> bool:
    if term["scopeName"] != "PriorityClass":
        return term["scopeName"] in ("NotBestEffort", "NotTerminating")
    priority = run.cluster.priority if run.cluster.job == "pytorchjob" else None
    listed = priority in (term.get("values") or ())
    return {"In": listed, "NotIn": not listed, "Exists": priority is not None, "DoesNotExist": priority is None}[
        term["operator"]
    ]


def limits(run: RunConfig, api: Api) -> Iterator[Finding]:
    """Each pod, its one container and the volume against the namespace's LimitRanges."""
    found = api.list(RANGES)[0]
    node, volume = of_node(run), Amounts()
    if run.cluster.workspace.claim is None:
        volume = {"storage": amount(run.cluster.workspace.size)}
    wrong = []
    for each in found:
        for item in each["spec"].get("limits") or ():
            asked = {"Container": node, "Pod": node, "PersistentVolumeClaim": volume}.get(item["type"], {})
            name = f"{each['metadata']['name']} ({item['type']})"
            wrong += [f"{name} {told}" for told in _outside(asked, item)]
    if wrong:
        yield failed(LIMITS, f"the cluster would refuse the pods: {'; '.join(wrong)}", SMALLER)
    else:
        yield ok(LIMITS, "the pods fit into it" if found else "the namespace has none")


def _outside(asked: Amounts, item: Object) -> Iterator[str]:
    """How what is asked for breaks a range."""
    for resource, most in amounts(item.get("max")).items():
        if asked.get(resource, most) > most:
            yield f"allows {resource}={show(resource, most)} at most, asked for {show(resource, asked[resource])}"
    for resource, least in amounts(item.get("min")).items():
        if asked.get(resource, least) < least:
            yield f"asks for {resource}={show(resource, least)} at least, got {show(resource, asked[resource])}"
