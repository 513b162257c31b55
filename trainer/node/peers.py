"""The nodes of one job: they start their ranks together, and each learns at once when another has ended."""

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from trainer.node.bell import Bell
from trainer.node.place import Place

HELLO, GO, END = "trainworks", "go", "end"
CONNECT_S, RETRY_S = 3.0, 1.0
REMINDER_S = 30.0
LONGEST_LINE = 64
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""Seconds after which a silent connection is asked, and how often: a machine that vanished is known after 30 s"""


@dataclass(frozen=True)
class Departure:
    """Another node's end: its exit code, None when it is gone without a word."""

    node: int
    code: int | None

    @property
    def words(self) -> str:
        return f"node {self.node} " + ("is gone" if self.code is None else f"ended with exit code {self.code}")


class Link:
    """A connection between two nodes, read line by line."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.closed, self._rest = connection, False, b""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def read(self) -> list[str]:
        """The whole lines that have come; sets `closed` when no more will."""
        try:
            content = self.connection.recv(4096)
        except (BlockingIOError, TimeoutError):
            return []
        except OSError:
            content = b""
        *lines, self._rest = (self._rest + content).split(b"\n")
        self.closed = not content or len(self._rest) > LONGEST_LINE
        return [line.decode("ascii", "replace") for line in lines]

    def send(self, line: str) -> bool:
        """Whether the line could be given to the network."""
        with contextlib.suppress(OSError):
            self.connection.sendall(f"{line}\n".encode())
            return True
        return False


class Peers:
    """Node 0's connections to each other node, and each other node's to node 0, beside the port of the ranks."""

    def __init__(self, place: Place, bell: Bell, say: Callable[[str], None], alive: Callable[[], None]) -> None:
        self.place, self.bell, self.say, self.alive = place, bell, say, alive
        self._links: dict[int, Link] = {}
        self._reminded = time.monotonic() - REMINDER_S / 2

    def gather(self) -> bool:
        """Wait until every node is here, without limit, as pods may wait for machines; False when asked to end."""
        if self.place.nodes == 1:
            return True
        return self._receive() if self.place.node == 0 else self._join()

    def departures(self, ready: list[int]) -> list[Departure]:
        """Nodes that have ended, by what can be read of them."""
        found = []
        for node, link in list(self._links.items()):
            if link.connection.fileno() not in ready:
                continue
            codes = [int(line.split()[1]) for line in link.read() if line.startswith(END)]
            if codes or link.closed:
                self._drop(node)
                found.append(Departure(node, codes[0] if codes else None))
        return found

    def leave(self, code: int) -> None:
        """Tell the others how this node ended, and let go of them."""
        for node, link in list(self._links.items()):
            link.send(f"{END} {code}")
            self._drop(node)

    def _receive(self) -> bool:
        """Node 0: have a connection to each other node, then give the word. Who dies while it waits comes again."""
        with socket.create_server(("", self.place.meeting_port), backlog=self.place.nodes) as server:
            self.bell.listen(server.fileno())
            try:
                while not self.bell.received:
                    ready = self.bell.wait(RETRY_S)
                    self.alive()
                    self.departures(ready)
                    if server.fileno() in ready:
                        self._welcome(Link(server.accept()[0]))
                    missing = [node for node in range(1, self.place.nodes) if node not in self._links]
                    if not missing and self._give_word():
                        return True
                    self._remind(f"waiting for {_named(missing)} of {self.place.nodes} nodes")
            finally:
                self.bell.forget(server.fileno())
        return False

    def _welcome(self, link: Link) -> None:
        """Keep a connection whose first words are those of a node of this job; its newest one counts."""
        link.connection.settimeout(CONNECT_S)
        words = " ".join(link.read()).split()
        node = int(words[1]) if len(words) == 2 and words[0] == HELLO and words[1].isdecimal() else 0
        if not 0 < node < self.place.nodes:
            link.connection.close()
            return
        self._drop(node)
        self._keep(node, link)

    def _give_word(self) -> bool:
        """Tell every node to begin; whether all were there to hear it."""
        for node, link in list(self._links.items()):
            if not link.send(GO):
                self._drop(node)
        return len(self._links) == self.place.nodes - 1

    def _join(self) -> bool:
        """Any other node: connect to node 0 as often as it takes, and wait for its word."""
        while not self.bell.received:
            self.alive()
            address = (self.place.host, self.place.meeting_port)
            with contextlib.suppress(OSError):
                link = Link(socket.create_connection(address, timeout=CONNECT_S))
                if link.send(f"{HELLO} {self.place.node}"):
                    self._keep(0, link)
                    if self._await_word(link):
                        return True
                    self._drop(0)
                link.connection.close()
            self._remind(f"waiting for node 0 at {address[0]}")
            self.bell.wait(RETRY_S)
        return False

    def _await_word(self, link: Link) -> bool:
        """Whether node 0 gave the word before it or this node was to end."""
        while not (self.bell.received or link.closed):
            ready = self.bell.wait(RETRY_S)
            self.alive()
            if link.connection.fileno() in ready and GO in link.read():
                return True
            self._remind("waiting for the other nodes")
        return False

    def _keep(self, node: int, link: Link) -> None:
        link.connection.setblocking(False)
        self._links[node] = link
        self.bell.listen(link.connection.fileno())

    def _drop(self, node: int) -> None:
        if link := self._links.pop(node, None):
            self.bell.forget(link.connection.fileno())
            link.connection.close()

    def _remind(self, text: str) -> None:
        if time.monotonic() - self._reminded > REMINDER_S:
            self._reminded = time.monotonic()
            self.say(text)


def _named(nodes: list[int], most: int = 8) -> str:
    """`node 3`, `nodes 1, 2`; of many the first."""
    more = f" and {len(nodes) - most} more" if len(nodes) > most else ""
    return f"node{'s' * (len(nodes) > 1)} {', '.join(map(str, nodes[:most]))}{more}"
