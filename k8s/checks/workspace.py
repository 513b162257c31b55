"""Whether the volume that all steps and nodes share is there, or can be made, and may be written by all of them."""

from collections.abc import Iterator
from typing import Any

from configs.schema import RunConfig
from k8s.api import CLAIMS, Api, Object, RefusedError, Resource
from k8s.checks.demand import needs_shared
from k8s.checks.finding import Finding, failed, ok, unknown

WORKSPACE = "workspace"
CLASSES = Resource("storage.k8s.io", "v1", "storageclasses", namespaced=False)
DEFAULT = "storageclass.kubernetes.io/is-default-class"
LATE = "WaitForFirstConsumer"
SHARED, ONE_NODE, ONE_POD = "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"
BLOCK = ("ebs.csi.aws.com", "aws-ebs", "pd.csi.storage.gke.io", "gce-pd", "disk.csi.azure.com", "azure-disk")
BLOCK += ("cinder.csi.openstack.org", "rancher.io/local-path", "rbd.csi.ceph.com")
"""Ends of the names of provisioners whose volumes one machine mounts at a time"""
FILES = ("efs.csi.aws.com", "filestore.csi.storage.gke.io", "file.csi.azure.com", "fsx.csi.aws.com", "azure-file")
FILES += ("nfs.csi.k8s.io", "cephfs.csi.ceph.com", "driver.longhorn.io", "k8s.io/minikube-hostpath")
"""Ends of the names of those whose volumes many mount"""


def workspace(run: RunConfig, api: Api) -> Iterator[Finding]:
    """The claim, or what a volume for each pipeline run is made of."""
    settings = run.cluster.workspace
    if settings.claim is None:
        yield _of_class(run, api, settings.storage_class)
        return
    found = api.get(CLAIMS, settings.claim)
    if found is None:
        yield failed(
            WORKSPACE,
            f"claim {settings.claim} does not exist in namespace {run.cluster.namespace}",
            "apply the one of k8s/manifests, or leave cluster.workspace.claim out to have a volume made for each run",
        )
        return
    yield _modes(run, found) or _phase(api, found) or ok(WORKSPACE, *_praise(run, found))


def _modes(run: RunConfig, claim: Object) -> Finding | None:
    """What is wrong with who may mount it."""
    name, modes = claim["metadata"]["name"], claim["spec"].get("accessModes") or []
    if SHARED in modes:
        return None
    allows = f"claim {name} allows {', '.join(modes) or 'nothing'}"
    remedy = f"make a claim with {SHARED}, of a storage class for files (NFS, CephFS, EFS, Filestore, Azure Files)"
    if ONE_NODE not in modes:
        why = "the pods of a step and of its job write to it at the same time"
        return failed(WORKSPACE, f"{allows}, but {why}", remedy)
    if needs_shared(run):
        return failed(WORKSPACE, f"{allows}, but {_many(run)} write to it from several machines", remedy)
    return None


def _many(run: RunConfig) -> str:
    if run.cluster.nodes > 1:
        return f"cluster.nodes={run.cluster.nodes} pods"
    return f"world.parallel_folds={run.world.parallel_folds} jobs"


def _phase(api: Api, claim: Object) -> Finding | None:
    """What is wrong with where it stands."""
    name, phase = claim["metadata"]["name"], (claim.get("status") or {}).get("phase", "Pending")
    if claim["metadata"].get("deletionTimestamp"):
        return failed(WORKSPACE, f"claim {name} is being deleted", "name another, or make it again")
    if phase == "Bound":
        return None
    why = f"kubectl describe pvc {name} tells why"
    if phase != "Pending":
        return failed(WORKSPACE, f"claim {name} is {phase}: its volume is gone", f"make the claim again; {why}")
    try:
        chosen = storage_class(api, claim["spec"].get("storageClassName"))
    except RefusedError as error:
        if error.status != 403:
            raise
        return unknown(WORKSPACE, f"claim {name} is Pending, which is well only if its class waits for a pod", why)
    if chosen is not None and chosen.get("volumeBindingMode") == LATE:
        return None
    return failed(WORKSPACE, f"claim {name} is Pending: nothing has made a volume for it", why)


def _praise(run: RunConfig, claim: Object) -> tuple[str, str]:
    name, modes = claim["metadata"]["name"], claim["spec"]["accessModes"]
    phase = (claim.get("status") or {}).get("phase", "Pending")
    state = "bound" if phase == "Bound" else "bound when the first pod is"
    if SHARED in modes:
        return f"claim {name}: {SHARED}, {state}", ""
    return (
        f"claim {name}: {ONE_NODE}, {state}; enough for one node as long as all pods come to the same machine",
        f"a job's pod on another machine than its step's would not start: fix it by cluster.node_selector or {SHARED}",
    )


def storage_class(api: Api, name: str | None) -> Object | None:
    """A storage class by name, or the default one; None where there is none."""
    if name:
        return api.get(CLASSES, name)
    marked = [
        each for each in api.list(CLASSES)[0] if (each["metadata"].get("annotations") or {}).get(DEFAULT) == "true"
    ]
    return max(marked, key=_age, default=None)


def _age(each: Object) -> Any:
    return each["metadata"].get("creationTimestamp") or ""


def _of_class(run: RunConfig, api: Api, name: str | None) -> Finding:
    """Whether KFP can have a volume made."""
    chosen = storage_class(api, name)
    if chosen is None and name:
        remedy = "kubectl get storageclass lists them; name one, or none for the cluster's default"
        return failed(WORKSPACE, f"cluster.workspace.storage_class={name} does not exist", remedy)
    if chosen is None:
        remedy = "name one: cluster.workspace.storage_class, or a claim: cluster.workspace.claim"
        return failed(WORKSPACE, "the cluster has no default storage class, so no volume can be made for a run", remedy)
    label, maker = chosen["metadata"]["name"], chosen.get("provisioner", "")
    if not needs_shared(run):
        return ok(WORKSPACE, f"storage class {label} makes a volume for each pipeline run")
    if maker.endswith(BLOCK):
        remedy = "name a class for files (NFS, CephFS, EFS, Filestore, Azure Files), or a claim with ReadWriteMany"
        return failed(WORKSPACE, f"volumes of storage class {label} ({maker}) are for one machine at a time", remedy)
    if maker.endswith(FILES):
        return ok(WORKSPACE, f"storage class {label} makes a volume for each pipeline run, for many machines")
    says = f"storage class {label} ({maker}) may or may not make volumes for many machines ({SHARED})"
    return unknown(WORKSPACE, says, "ask whoever runs the cluster, or try it: trainworks doctor --try-pod")
