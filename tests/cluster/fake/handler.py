"""How the fake cluster answers one call over HTTP: objects, watches and logs as streams, refusals as Kubernetes's."""

import contextlib
import json
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from tests.cluster.fake.discovery import discover
from tests.cluster.fake.requests import Asked, merge, parse_path, selector_of, verb_of
from tests.cluster.fake.store import Object, StatusError, event_line

if TYPE_CHECKING:
    from tests.cluster.fake.api import FakeCluster

BOOKMARK_S = 5.0


class Request(NamedTuple):
    """One call, as RBAC sees it."""

    user: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    subresource: str


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    cluster: "FakeCluster"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut is what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer's head and body would be 40 ms apart
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def setup(self) -> None:
        super().setup()
        self.server.cluster.opened(self.connection, watch=False)

    def finish(self) -> None:
        self.server.cluster.closed(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None: ...

    def handle_method(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        cluster, split = self.server.cluster, urlsplit(self.path)
        query = dict(parse_qsl(split.query, keep_blank_values=True))
        try:
            for prefix, handler in cluster.mounted.items():
                if split.path.startswith(prefix):
                    status, content = handler(
                        self.command, split.path.removeprefix(prefix), query, dict(self.headers), body
                    )
                    return self._answer(status, content)
            self._kubernetes(split.path, query, body)
        except StatusError as error:
            self._answer(error.status, _status(error))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        return None

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_method  # noqa: N815

    def _kubernetes(self, path: str, query: dict[str, str], body: bytes) -> None:
        cluster, user = self.server.cluster, self._user()
        if path in ("/version", "/version/", "/readyz", "/healthz", "/livez"):
            return self._answer(200, {"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
        if told := discover(path, cluster.kinds, cluster.schemas):
            return self._answer(200, told)
        asked = parse_path(path)
        verb = verb_of(self.command, asked, query)
        request = Request(user, verb, asked.group, asked.resource, asked.namespace, asked.name, asked.subresource)
        cluster.requests.append(request)
        time.sleep(cluster.faults.delay_s)
        if refused := cluster.faults.take(verb):
            status, after = refused
            error = StatusError(status, "Fault", f"planted: {status}")
            return self._answer(status, _status(error), {"Retry-After": after} if after else {})
        if asked.resource == "selfsubjectaccessreviews":
            return self._review(user, json.loads(body))
        if not cluster.policy(request):
            raise StatusError(403, "Forbidden", _forbidden(request))
        if (asked.group, asked.resource) not in cluster.kinds:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        return self._carry_out(verb, asked, query, body)

    def _carry_out(self, verb: str, asked: Asked, query: dict[str, str], body: bytes) -> None:
        cluster, store = self.server.cluster, self.server.cluster.store
        kind, place = cluster.kinds[(asked.group, asked.resource)], (asked.resource, asked.namespace, asked.name)
        if asked.subresource == "log":
            return self._log(asked, query)
        if verb == "watch":
            return self._watch(asked, query)
        if verb == "list":
            with store.lock:
                items, version = store.list(*place[:2], selector_of(query)), str(store.version)
            meta = {"resourceVersion": version}
            return self._answer(
                200, {"kind": f"{kind}List", "apiVersion": asked.api_version, "metadata": meta, "items": items}
            )
        if verb == "get":
            found = store.get(*place)
            if found is None:
                raise StatusError(404, "NotFound", f'{asked.resource} "{asked.name}" not found')
            return self._answer(200, found)
        if verb == "create":
            return self._create(asked, kind, query, json.loads(body))
        if verb == "delete":
            options = json.loads(body) if body else {}
            foreground = "Foreground" in (options.get("propagationPolicy"), query.get("propagationPolicy"))
            return self._answer(200, store.delete(*place, foreground=foreground))
        change = json.loads(body)
        return self._answer(200, store.change(*place, lambda found: merge(found, change, whole=verb == "update")))

    def _create(self, asked: Asked, kind: str, query: dict[str, str], manifest: Object) -> None:
        cluster = self.server.cluster
        if manifest.get("kind") != kind:
            raise StatusError(400, "BadRequest", f"{manifest.get('kind')} is no {kind}")
        if asked.namespace and not cluster.store.get("namespaces", "", asked.namespace):
            raise StatusError(404, "NotFound", f'namespaces "{asked.namespace}" not found')
        if problems := cluster.validate(manifest):
            name = manifest.get("metadata", {}).get("name", "")
            raise StatusError(422, "Invalid", f'{kind} "{name}" is invalid: {"; ".join(problems)}')
        if "All" in query.get("dryRun", ""):
            return self._answer(201, manifest)
        return self._answer(201, cluster.store.create(asked.resource, manifest, asked.namespace))

    def _review(self, user: str, review: Object) -> None:
        wanted = review["spec"]["resourceAttributes"]
        keys = ("verb", "group", "resource", "namespace", "name", "subresource")
        allowed = self.server.cluster.policy(Request(user, *(wanted.get(key) or "" for key in keys)))
        self._answer(201, review | {"status": {"allowed": allowed}})

    def _user(self) -> str:
        given = self.headers.get("Authorization")
        if given is None:
            return "anonymous"
        user = self.server.cluster.tokens.get(given.removeprefix("Bearer ").strip())
        if user is None:
            raise StatusError(401, "Unauthorized", "Unauthorized")
        return user

    def _watch(self, asked: Asked, query: dict[str, str]) -> None:
        cluster = self.server.cluster
        watcher = cluster.store.watch(
            asked.resource, asked.namespace, selector_of(query), query.get("resourceVersion", "")
        )
        cluster.opened(self.connection, watch=True)
        deadline = time.monotonic() + float(query.get("timeoutSeconds") or 1800)
        kind = cluster.kinds[(asked.group, asked.resource)]
        try:
            with self._stream() as write:
                while (left := deadline - time.monotonic()) > 0:
                    line = _next(watcher.queue, min(left, BOOKMARK_S))
                    if line is None:
                        meta = {"resourceVersion": str(cluster.store.version)}
                        line = event_line("BOOKMARK", {"kind": kind, "metadata": meta})
                    write(line)
        finally:
            cluster.store.forget(watcher)

    def _log(self, asked: Asked, query: dict[str, str]) -> None:
        cluster = self.server.cluster
        pod = cluster.store.get("pods", asked.namespace, asked.name)
        if pod is None:
            raise StatusError(404, "NotFound", f'pods "{asked.name}" not found')
        if pod.get("status", {}).get("phase", "Pending") == "Pending":
            message = f'container in pod "{asked.name}" is waiting to start: ContainerCreating'
            raise StatusError(400, "BadRequest", message)
        cluster.opened(self.connection, watch=True)
        with self._stream() as write:
            for line in cluster.logs(pod, query):
                write(line)

    @contextlib.contextmanager
    def _stream(self) -> Iterator[Callable[[bytes], None]]:
        """An answer in chunks, which a cut ends without its last one."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def write(content: bytes) -> None:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
            self.wfile.flush()

        yield write
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)


def _next(lines: "queue.SimpleQueue[bytes | None]", timeout_s: float) -> bytes | None:
    try:
        return lines.get(timeout=timeout_s)
    except queue.Empty:
        return None


def _status(error: StatusError) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": error.reason,
        "message": error.message,
        "code": error.status,
    }


def _forbidden(request: Request) -> str:
    resource = f"{request.resource}{request.subresource and '/'}{request.subresource}"
    return (
        f'{resource}{request.group and "."}{request.group} is forbidden: User "{request.user}" cannot {request.verb} '
        f'resource "{resource}" in API group "{request.group}" in the namespace "{request.namespace}"'
    )
