"""What one job of a run asks of a cluster, as numbers."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from configs.cluster import SUFFIXES
from configs.schema import RunConfig
from k8s.pods import resources

Amounts = dict[str, Decimal]
"""By name of the resource: cores, bytes, devices"""


def amount(quantity: Any) -> Decimal:
    """A quantity as Kubernetes writes it, such as 500m or 16Gi."""
    return Decimal(parse_quantity(quantity))


def amounts(quantities: Mapping[str, Any] | None) -> Amounts:
    return {name: amount(quantity) for name, quantity in (quantities or {}).items()}


def of_node(run: RunConfig) -> Amounts:
    """What each pod of a job asks for."""
    return amounts(resources(run.cluster.node)["requests"])


def of_job(run: RunConfig) -> Amounts:
    """What all pods of a job ask for, which run at the same time."""
    return {name: each * run.cluster.nodes for name, each in of_node(run).items()}


def parts(run: RunConfig) -> list[int]:
    """Pods in each part of a job, as a queue sees it: a PyTorchJob's master stands apart from its workers."""
    nodes = run.cluster.nodes
    return [nodes] if run.cluster.job == "trainjob" or nodes == 1 else [1, nodes - 1]


def show(resource: str, number: Decimal) -> str:
    """A number of a resource in the unit that people write."""
    if "memory" in resource or "storage" in resource:
        for suffix, size in reversed(SUFFIXES.items()):
            if number >= size:
                return f"{number / size:.4g}{suffix}"
    return f"{number:f}".rstrip("0").rstrip(".") if "." in f"{number:f}" else f"{number:f}"


def access_mode(run: RunConfig) -> str:
    """What a volume has to allow that is made for a run."""
    return "ReadWriteMany" if needs_shared(run) else "ReadWriteOnce"


def needs_shared(run: RunConfig) -> bool:
    """Whether pods on several machines write to the volume at the same time."""
    return run.cluster.nodes > 1 or run.world.parallel_folds > 1
