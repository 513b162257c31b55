"""Whether what a run refers to by name is there: image, secrets, service account, priority."""

from collections.abc import Iterator

from configs.schema import RunConfig
from k8s.api import Api, RefusedError, Resource
from k8s.checks.finding import Finding, failed, ok, skipped, unknown, unreadable
from k8s.checks.queue import GROUP

IMAGE, SECRETS, ACCOUNT, PRIORITY = "image", "secrets", "service account", "priority"
SECRET = Resource("", "v1", "secrets")
ACCOUNTS = Resource("", "v1", "serviceaccounts")
CLASSES = Resource("scheduling.k8s.io", "v1", "priorityclasses", namespaced=False)


def image(run: RunConfig, api: Api) -> Iterator[Finding]:
    """Whether the image is named by a digest: what a tag names may change under a run, and is served stale."""
    cluster = run.cluster
    if cluster.image_digest is None:
        name = cluster.image.rpartition(":")[0] if ":" in cluster.image.rpartition("/")[2] else cluster.image
        remedy = (
            f"name it by digest: cluster.image={name}@sha256:..., which `docker buildx imagetools inspect "
            f"{cluster.image}` prints"
        )
        yield failed(IMAGE, f"cluster.image={cluster.image} is a tag, which may be moved under the run", remedy)
    else:
        yield ok(IMAGE, f"{cluster.image}; whether it can be pulled, trainworks doctor --try-pod tells")


def secrets(run: RunConfig, api: Api) -> Iterator[Finding]:
    """Whether each secret is there and has the value that is asked of it; values are not looked at."""
    keys: dict[str, set[str]] = {name: set() for name in run.cluster.pull_secrets}
    for each in run.cluster.secrets.values():
        keys.setdefault(each.name, set()).add(each.key)
    if not keys:
        yield skipped(SECRETS, "the run names none")
    for name, wanted in sorted(keys.items()):
        yield _secret(api, name, wanted, namespace=run.cluster.namespace)


def _secret(api: Api, name: str, wanted: set[str], *, namespace: str) -> Finding:
    try:
        found = api.get(SECRET, name)
    except RefusedError as error:
        if error.status == 401:
            raise
        return unreadable(f"secret {name}", "get secrets", error)
    literal = " ".join(f"--from-file={key}=FILE" for key in sorted(wanted)) or "--from-file=.dockerconfigjson=FILE"
    if found is None:
        remedy = f"kubectl create secret generic {name} -n {namespace} {literal}"
        return failed(f"secret {name}", f"it does not exist in namespace {namespace}", remedy)
    if missing := sorted(wanted - set(found.get("data") or ())):
        says = f"it has no {', '.join(missing)}"
        return failed(f"secret {name}", says, "add the key to it, or mend the key in cluster.secrets")
    return ok(f"secret {name}", f"has {', '.join(sorted(wanted))}" if wanted else "is there")


def account(run: RunConfig, api: Api) -> Iterator[Finding]:
    """Whether the account of the job's pods is there: without it no pod is ever made."""
    name, namespace = run.cluster.service_account, run.cluster.namespace
    if api.get(ACCOUNTS, name) is None:
        remedy = f"kubectl create serviceaccount {name} -n {namespace}, or apply k8s/manifests"
        yield failed(ACCOUNT, f"cluster.service_account={name} does not exist in namespace {namespace}", remedy)
    else:
        yield ok(ACCOUNT, name)


def priority(run: RunConfig, api: Api) -> Iterator[Finding]:
    """Whether the priority class is there, of the kind that this kind of job uses."""
    cluster = run.cluster
    if cluster.priority is None:
        yield skipped(PRIORITY, "cluster.priority is not given")
        return
    kind, resource, plural = "PriorityClass", CLASSES, "priorityclass"
    if cluster.job == "trainjob":
        if cluster.queue is None:
            says = "cluster.priority has no effect on a TrainJob that no queue admits"
            yield failed(PRIORITY, says, "name a cluster.queue, leave cluster.priority out, or put it into the runtime")
            return
        group = api.read(f"/apis/{GROUP}")
        if group is None:
            yield unknown(PRIORITY, "the cluster has no Kueue, which would know it")
            return
        version = group["preferredVersion"]["version"]
        resource = Resource(GROUP, version, "workloadpriorityclasses", namespaced=False)
        kind, plural = "WorkloadPriorityClass", "workloadpriorityclass"
    if api.get(resource, cluster.priority) is None:
        remedy = f"kubectl get {plural} lists them; name one, or leave cluster.priority out"
        yield failed(PRIORITY, f"cluster.priority={cluster.priority}: there is no {kind} of that name", remedy)
    else:
        yield ok(PRIORITY, f"{kind} {cluster.priority}")
