"""Whether any machine of the cluster is large enough for a job's pods.

For `doctor` alone: machines come and go, and a submitted job may wait for one, so nothing is refused for want of it.
"""

from collections.abc import Iterator

from configs.schema import RunConfig
from k8s.api import Api, Object, RefusedError, Resource
from k8s.checks.demand import Amounts, amounts, of_node, show
from k8s.checks.finding import Finding, failed, ok, unknown

MACHINES = "machines"
NODES = Resource("", "v1", "nodes", namespaced=False)
GROWS = ("/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status", "/apis/karpenter.sh")
"""What is there when something adds machines on demand"""


def machines(run: RunConfig, api: Api) -> Iterator[Finding]:
    """Room for all pods of one job on empty machines that may run them."""
    open_to_us = [
        amounts((each.get("status") or {}).get("allocatable")) for each in api.list(NODES)[0] if may_run(each, run)
    ]
    asked, wanted = of_node(run), run.cluster.nodes
    room = sum(fit(each, asked) for each in open_to_us)
    if room >= wanted:
        yield ok(MACHINES, f"{len(open_to_us)} may run the pods, with room for {room} when empty; a job has {wanted}")
        return
    if not open_to_us:
        says = "none has the labels of cluster.node_selector without a taint that cluster.tolerations lacks"
    else:
        largest = {name: max(each.get(name, asked[name] * 0) for each in open_to_us) for name in asked}
        short = [
            f"{name}={show(name, each)} asked for, {show(name, largest[name])} at most"
            for name, each in asked.items()
            if each > largest[name]
        ]
        says = "no machine is large enough for a pod: " + ", ".join(short) if short else _crowded(room, wanted)
    remedy = "make cluster.node smaller, mend cluster.node_selector or cluster.tolerations, or add machines"
    if (growth := _grows(api)) is None:
        yield failed(MACHINES, says, remedy)
    else:
        yield unknown(MACHINES, f"{says}; {growth}", remedy)


def _crowded(room: int, wanted: int) -> str:
    return f"all machines together have room for {room} pods, and a job has {wanted}"


def may_run(node: Object, run: RunConfig) -> bool:
    """Whether a machine has the labels asked for, and no taint that is not tolerated."""
    labels, spec = node["metadata"].get("labels") or {}, node.get("spec") or {}
    if any(labels.get(name) != value for name, value in run.cluster.node_selector.items()):
        return False
    hard = [each for each in spec.get("taints") or () if each["effect"] != "PreferNoSchedule"]
    return all(_tolerated(each, run) for each in hard) and not spec.get("unschedulable")


def _tolerated(taint: Object, run: RunConfig) -> bool:
    """As the scheduler matches them; GPUs' own taint is tolerated for pods that ask for them, where that is set up."""
    if taint["key"] == run.cluster.node.gpu_resource and run.cluster.node.gpus:
        return True
    return any(
        each.key == taint["key"]
        and each.effect in (None, taint["effect"])
        and each.value in (None, taint.get("value", ""))
        for each in run.cluster.tolerations
    )


def fit(room: Amounts, asked: Amounts) -> int:
    """How many pods an empty machine holds."""
    return min(int(room.get(name, each * 0) // each) for name, each in asked.items() if each)


def _grows(api: Api) -> str | None:
    """Why more or larger machines may come: a pool of an autoscaler shows none while nobody asks for them."""
    try:
        if any(api.read(path) is not None for path in GROWS):
            return "an autoscaler may add some"
    except RefusedError:
        return "an autoscaler may add some: without the right to get its status it is not known"
    return None
