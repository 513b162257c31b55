"""A cluster to try the commands on: `python -m tests.cluster.fake`, with configs/clusters/fake.yaml.

Kubernetes's API, the operators and Kubeflow Pipelines on a port of this machine; pods are processes of it.
"""

import argparse
import contextlib
import signal
import tempfile
from pathlib import Path
from typing import Any

from configs.cluster import ClusterConfig
from tests.cluster.fake.api import FakeCluster
from tests.cluster.fake.kfp import FakeKfp
from tests.cluster.fake.kubelet import Kubelet
from tests.cluster.fake.operator import FakeOperator

NAMESPACE = "trainworks"
CLAIM = "workspace"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m tests.cluster.fake", description=(__doc__ or "").split("\n\n")[1])
    default = Path(tempfile.gettempdir()) / "trainworks-fake"
    top.add_argument("--folder", type=Path, default=default, metavar="DIR", help=f"kubeconfig, volume ({default})")
    top.add_argument("--port", type=int, default=0, help="of the API (one that is free)")
    return top


def furnish(cluster: FakeCluster) -> None:
    """What a namespace has that the manifests have made."""
    cluster.create("namespaces", {"kind": "Namespace", "metadata": {"name": NAMESPACE}})
    claim: dict[str, Any] = {"spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}
    cluster.create("persistentvolumeclaims", {"metadata": {"name": CLAIM}, **claim}, NAMESPACE)
    cluster.create("serviceaccounts", {"metadata": {"name": "trainworks-job"}}, NAMESPACE)
    cluster.create("clustertrainingruntimes", {"metadata": {"name": ClusterConfig.model_fields["runtime"].default}})
    sizes = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti"}
    cluster.create("nodes", {"metadata": {"name": "fake-node"}, "status": {"allocatable": sizes}})


def main() -> int:
    arguments = parser().parse_args()
    folder = arguments.folder.resolve()
    (folder / CLAIM).mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cluster = FakeCluster(port=arguments.port)
    furnish(cluster)
    kubelet = Kubelet(cluster, volumes={CLAIM: folder / CLAIM})
    with contextlib.suppress(KeyboardInterrupt), cluster, kubelet, FakeOperator(cluster):
        kubeconfig = cluster.write_kubeconfig(folder / "kubeconfig", namespace=NAMESPACE)
        with tempfile.TemporaryDirectory(prefix="kfp-", dir=folder) as scratch:
            FakeKfp(cluster, Path(scratch), kubelet, kubeconfig)
            print(f"export KUBECONFIG={kubeconfig}  # ready at {cluster.url}; volume {folder / CLAIM}", flush=True)
            signal.pause()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
