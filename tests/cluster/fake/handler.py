"""How the fake cluster answers one call over HTTP: objects, watches and logs as streams, refusals as Kubernetes's."""

import contextlib
import json
import queue
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.cluster.fake.discovery import discover
from tests.cluster.fake.objects import StatusError, event_line
from tests.cluster.fake.requests import Request, forbidden, parse_path, verb_of
from tests.cluster.fake.selectors import selector_of
from tests.cluster.fake.store import Watcher
from tests.cluster.fake.verbs import Call, carry_out, missing, review

if TYPE_CHECKING:
    from tests.cluster.fake.api import FakeCluster

VERSION = {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
HEALTH = ("/readyz", "/healthz", "/livez")
LONGEST_WATCH_S = 1800.0
__all__ = ["Handler", "Request", "Server"]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    cluster: "FakeCluster"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut is what these tests are about; anything else is a fault of the fake."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


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
        path = unquote(split.path)  # names of services hold a colon, which some clients encode
        query = dict(parse_qsl(split.query, keep_blank_values=True))
        try:
            for prefix, handler in list(cluster.mounted.items()):
                if path.startswith(prefix):
                    below = path.removeprefix(prefix)
                    self._answer(*handler(self.command, below, query, dict(self.headers), body))
                    return
            self._kubernetes(split.path, query, body)
        except StatusError as error:
            self._answer(error.status, error.body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_method  # noqa: N815

    def _kubernetes(self, path: str, query: dict[str, str], body: bytes) -> None:
        cluster, user = self.server.cluster, self._user()
        if path.rstrip("/") == "/version":
            return self._answer(200, VERSION)
        if path.rstrip("/") in HEALTH:
            return self._answer(200, b"ok", {"Content-Type": "text/plain"})
        if told := discover(path, cluster.kinds, cluster.schemas):
            return self._answer(200, told)
        asked = parse_path(path)
        verb = verb_of(self.command, asked, query)
        request = Request(
            user, verb, asked.group, asked.resource, asked.namespace, asked.name, asked.subresource, time.time()
        )
        cluster.requests.append(request)
        time.sleep(cluster.faults.delay_s)
        if refused := cluster.faults.take(verb):
            status, after = refused
            error = StatusError(status, "Fault", f"planted: {status}")
            return self._answer(status, error.body, {"Retry-After": after} if after else {})
        content_type = (self.headers.get("Content-Type") or "").partition(";")[0].strip()
        call = Call(cluster, verb, asked, query, body, content_type)
        if asked.resource == "selfsubjectaccessreviews":
            return self._answer(*review(call, user))
        if not cluster.policy(request):
            raise forbidden(request)
        if not cluster.serves(asked):
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        if (asked.resource, asked.subresource) == ("pods", "log"):
            return self._log(call)
        return self._watch(call) if verb == "watch" else self._answer(*carry_out(call))

    def _user(self) -> str:
        given = self.headers.get("Authorization")
        if given is None:
            return "anonymous"
        user = self.server.cluster.tokens.get(given.removeprefix("Bearer ").strip())
        if user is None:
            raise StatusError(401, "Unauthorized", "Unauthorized")
        return user

    def _watch(self, call: Call) -> None:
        cluster, asked, query = call.cluster, call.asked, call.query
        selector = selector_of(query, asked.resource)
        try:
            watcher = cluster.store.watch(asked.resource, asked.namespace, selector, query.get("resourceVersion", ""))
        except StatusError as error:
            if error.status != 410 or not cluster.faults.gone_as_event:
                raise
            with self._stream() as write:
                return write(event_line("ERROR", error.body))
        cluster.opened(self.connection, watch=True)
        deadline = time.monotonic() + float(query.get("timeoutSeconds") or LONGEST_WATCH_S)
        marks = query.get("allowWatchBookmarks") in ("true", "True", "1")
        try:
            with self._stream() as write:
                while (left := deadline - time.monotonic()) > 0:
                    try:
                        line = watcher.queue.get(timeout=min(left, cluster.bookmark_s))
                    except queue.Empty:
                        line = self._bookmark(call, watcher) if marks else b""
                    if line is None:
                        return None
                    if line:
                        write(line)
        finally:
            cluster.store.forget(watcher)
        return None

    @staticmethod
    def _bookmark(call: Call, watcher: Watcher) -> bytes:
        """A version up to which the watcher has heard all: none while something waits for it."""
        store = call.cluster.store
        with store.lock:
            if not watcher.queue.empty():
                return b""
            meta = {"resourceVersion": str(store.version)}
        mark = {"kind": call.kind, "apiVersion": call.asked.api_version, "metadata": meta}
        return event_line("BOOKMARK", mark)

    def _log(self, call: Call) -> None:
        cluster, asked = call.cluster, call.asked
        pod = cluster.store.get("pods", asked.namespace, asked.name)
        if pod is None:
            raise missing(asked)
        if (pod.get("status") or {}).get("phase", "Pending") == "Pending":
            message = f'container in pod "{asked.name}" is waiting to start: ContainerCreating'
            raise StatusError(400, "BadRequest", message)
        lines = cluster.logs(pod, call.query)
        cluster.opened(self.connection, watch=True)
        with self._stream("text/plain") as write:
            for line in lines:
                if line:
                    write(line)

    @contextlib.contextmanager
    def _stream(self, content_type: str = "application/json") -> Iterator[Callable[[bytes], None]]:
        """An answer in chunks, which a cut ends without its last one."""
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def write(content: bytes) -> None:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
            self.wfile.flush()

        yield write
        self.wfile.write(b"0\r\n\r\n")
        self.server.cluster.opened(self.connection, watch=False)

    def _answer(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)
