"""Where a node stands in its job, and what each of its ranks is told of that."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from configs.errors import ConfigError

LAST_PORT = 65535


@dataclass(frozen=True)
class Place:
    """One node of a job: `per_node` ranks here, as many on each of the others."""

    per_node: int
    nodes: int = 1
    node: int = 0
    master: tuple[str, str] | None = None
    """Address and port where the ranks of all nodes meet; on a single node a free port of this machine at each start"""

    @property
    def ranks(self) -> range:
        """This node's ranks."""
        return range(self.node * self.per_node, (self.node + 1) * self.per_node)

    @property
    def host(self) -> str:
        """Where node 0 is."""
        return self.master[0] if self.master else "127.0.0.1"

    @property
    def meeting_port(self) -> int:
        """Where the agents of the nodes meet, beside the port of their ranks."""
        port = int(self.master[1]) if self.master else 0
        return port + 1 if port < LAST_PORT else port - 1

    def environments(self) -> dict[int, dict[str, str]]:
        """For each rank of a start the variables by which it finds its peers."""
        address, port = self.master or ("127.0.0.1", str(_free_port()))
        shared = {
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
            "WORLD_SIZE": str(self.nodes * self.per_node),
            "LOCAL_WORLD_SIZE": str(self.per_node),
        }
        return {rank: shared | {"RANK": str(rank), "LOCAL_RANK": str(local)} for local, rank in enumerate(self.ranks)}


def read_place(environ: Mapping[str, str], processes: int) -> Place:
    """This node's place from what PyTorchJob or TrainJob sets; a single node where nothing is set.

    Raises ConfigError when the variables are not numbers, or their ranks are not the run's `processes`.
    """
    nodes = _number(environ, "PET_NNODES", 1)
    per_node = _number(environ, "PET_NPROC_PER_NODE", processes if nodes == 1 else 1)
    if nodes * per_node != processes:
        raise ConfigError(
            f"the job has {nodes} nodes x {per_node} ranks = {nodes * per_node} (PET_NNODES, PET_NPROC_PER_NODE), "
            f"the run world.processes={processes}; make them equal"
        )
    if nodes == 1:
        return Place(per_node)
    node = _number(environ, "PET_NODE_RANK", _number(environ, "RANK", 0))
    if node >= nodes:
        raise ConfigError(f"PET_NODE_RANK={node} must be less than PET_NNODES={nodes}")
    address, port = (environ.get(f"PET_{name}") or environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))
    if not address or not port:
        raise ConfigError(f"PET_NNODES={nodes} needs MASTER_ADDR and MASTER_PORT, where the ranks meet")
    if not port.isdecimal() or not 0 < int(port) <= LAST_PORT:
        raise ConfigError(f"MASTER_PORT={port!r} in the environment must be a port number")
    return Place(per_node, nodes, node, (address, port))


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"{name}={text!r} in the environment must be a whole number")
    return int(text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
