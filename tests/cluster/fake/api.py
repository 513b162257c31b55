"""The Kubernetes API of the fake cluster over HTTP, with the faults that a real one has.

Own code on the standard library: of kmock, which was tried, too much would have been replaced (versions, selectors,
PUT, owners, logs that are followed), and its plugin for pytest asks for another one.
"""

import contextlib
import os
import socket
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from tests.cluster.fake.crds import crd_problems
from tests.cluster.fake.discovery import SCHEMAS
from tests.cluster.fake.handler import Handler, Server
from tests.cluster.fake.kinds import KINDS, versions
from tests.cluster.fake.objects import Object, StatusError, event_line
from tests.cluster.fake.requests import Asked, Request, Rule
from tests.cluster.fake.store import Store

TOKEN = "fake-token"
USER = "tester"
Policy = Callable[[Request], bool]
Mounted = Callable[[str, str, dict[str, str], Mapping[str, str], bytes], tuple[int, Any]]
"""Method, path below the prefix, query, headers and body to status and JSON; called in the connection's own thread"""
Logs = Callable[[Object, Mapping[str, str]], Iterator[bytes]]
"""A pod and the query to lines; raises StatusError before the first. An empty one says that there is none yet"""


class Faults:
    """What is wrong with the API at the moment."""

    def __init__(self) -> None:
        self.refusals: list[tuple[int, str, str]] = []
        """Status, Retry-After and verb (any when empty) of the next answers"""
        self.delay_s = 0.0
        self.gone_as_event = False
        """Whether a watch from an old version gets its 410 as an event, as mostly happens, or as the answer's status"""
        self._lock = threading.Lock()

    def add(self, count: int, refusal: tuple[int, str, str]) -> None:
        with self._lock:
            self.refusals += [refusal] * count

    def take(self, verb: str) -> tuple[int, str] | None:
        with self._lock:
            for number, (status, after, only) in enumerate(self.refusals):
                if only in ("", verb):
                    del self.refusals[number]
                    return status, after
        return None


class FakeCluster:
    """The API on a port of this machine; a context manager."""

    def __init__(self, *, port: int = 0, validate: Callable[[Object], list[str]] | None = None) -> None:
        self.store, self.faults, self.kinds, self.schemas = Store(), Faults(), dict(KINDS), dict(SCHEMAS)
        self.validate = validate or crd_problems
        self.tokens = {TOKEN: USER}
        self.policy: Policy = self._allows
        self.rules: dict[str, list[Rule]] = {}
        """What users may do; somebody who is not named may do all"""
        self.requests: deque[Request] = deque(maxlen=1_000_000)
        self.logs: Logs = lambda pod, query: iter(())
        self.mounted: dict[str, Mounted] = {}
        self.bookmark_s = 5.0
        self.port, self._server, self._reserved = port, None, None
        self._sockets: dict[socket.socket, bool] = {}
        """Open connections; whether each carries a watch"""
        self._lock = threading.Lock()
        self._cutting = threading.Event()

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *error: object) -> None:
        self._cutting.set()
        self.down()
        self.store.end_watches()
        if self._reserved:
            self._reserved.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Answer, on the same port as before."""
        if self._server:
            return
        server = Server(("127.0.0.1", self.port), Handler)
        server.cluster, self.port, self._server = self, server.server_port, server
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections, and cut those that are open; the port stays ours."""
        if self._server:
            server, self._server = self._server, None
            server.shutdown()
            server.server_close()
            self._reserved = self._reserved or _bound(self.port)
        self._cut(watches_only=False)

    def cut_watches(self) -> None:
        self._cut(watches_only=True)

    def cut_watches_every(self, seconds: float) -> None:
        """Until the cluster ends."""

        def cut() -> None:
            while not self._cutting.wait(seconds):
                self.cut_watches()

        threading.Thread(target=cut, daemon=True).start()

    def refuse(self, count: int, status: int, *, retry_after: object = "", verb: str = "") -> None:
        """Answer the next calls, of one verb or any, with a status."""
        self.faults.add(count, (status, str(retry_after), verb))

    def delay(self, seconds: float) -> None:
        """Take so long over every answer."""
        self.faults.delay_s = seconds

    def expire(self, *, as_event: bool = False) -> None:
        """Forget what was before: watches and pages from there get 410, a watch as an event of its stream if asked."""
        self.faults.gone_as_event = as_event
        self.store.expire()
        if as_event:
            gone = StatusError(410, "Expired", "too old resource version")
            self.store.end_watches(event_line("ERROR", gone.body))
        else:
            self.cut_watches()

    def remove_kind(self, plural: str) -> None:
        """As a cluster on which that kind was never installed."""
        self.kinds = {key: kind for key, kind in self.kinds.items() if key[1] != plural}

    def serves(self, asked: Asked) -> bool:
        return (asked.group, asked.resource) in self.kinds and asked.version in versions(asked.group)

    def mount(self, prefix: str, handler: Mounted) -> None:
        """Have all below a path answered by somebody else."""
        self.mounted[prefix] = handler

    def add_user(self, user: str, *rules: Rule) -> str:
        """The token of somebody new, who may do what the rules say: all, when there are none."""
        token = f"{user}-{uuid.uuid4().hex[:8]}"
        self.tokens[token] = user
        if rules:
            self.rules[user] = list(rules)
        return token

    def expire_token(self, token: str = TOKEN) -> None:
        """Know it no more."""
        self.tokens.pop(token, None)

    def _allows(self, request: Request) -> bool:
        rules = self.rules.get(request.user)
        return rules is None or any(rule.covers(request) for rule in rules)

    def create(self, plural: str, manifest: Mapping[str, Any], namespace: str = "") -> Object:
        return self.store.create(plural, manifest, namespace)

    def get(self, plural: str, name: str, namespace: str = "") -> Object | None:
        return self.store.get(plural, namespace, name)

    def objects(self, plural: str, namespace: str = "") -> list[Object]:
        return self.store.list(plural, namespace)

    def update(self, plural: str, name: str, edit: Callable[[Object], None], namespace: str = "") -> Object:
        return self.store.change(plural, namespace, name, edit)

    def delete(self, plural: str, name: str, namespace: str = "") -> Object:
        return self.store.delete(plural, namespace, name)

    def count(self, verb: str = "", resource: str = "") -> int:
        """How many calls there were, of one verb and about one kind where they are named."""
        calls = list(self.requests)
        return sum(1 for each in calls if verb in ("", each.verb) and resource in ("", each.resource))

    def write_kubeconfig(
        self, path: Path, *, user: str = USER, context: str = "fake", namespace: str = "", token: str = ""
    ) -> Path:
        """For a user that has a token, or with any token."""
        token = token or next(token for token, name in self.tokens.items() if name == user)
        place = {"cluster": "fake", "user": user, **({"namespace": namespace} if namespace else {})}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": context,
                    "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                    "users": [{"name": user, "user": {"token": token}}],
                    "contexts": [{"name": context, "context": place}],
                }
            )
        )
        os.chmod(path, 0o600)
        return path

    def opened(self, connection: socket.socket, *, watch: bool) -> None:
        with self._lock:
            self._sockets[connection] = watch
        if self._server is None:  # accepted while the API went down
            _shut(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.pop(connection, None)

    def _cut(self, *, watches_only: bool) -> None:
        with self._lock:
            chosen = [each for each, watch in self._sockets.items() if watch or not watches_only]
        for each in chosen:
            _shut(each)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _bound(port: int) -> socket.socket:
    """A socket that keeps a port from others without answering on it."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", port))
    return kept
