"""Calls to a Kubernetes API that is away, busy, cut off or unwilling: a scripted server on this machine answers."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kubernetes.client import ApiClient, Configuration

from configs.errors import OutageError
from k8s.api import PODS, Api, GoneError, RefusedError
from k8s.podlogs import PodLogs
from tests.runs import wait_until

Answer = tuple[int, dict[str, str], bytes]
POD = {"metadata": {"name": "p", "resourceVersion": "7"}}


def answer(status: int, content: Any = None, **headers: str) -> Answer:
    return status, headers, content if isinstance(content, bytes) else json.dumps(content or {}).encode()


class Server:
    """Gives the scripted answers in turn, the last one for ever, and keeps what it was asked."""

    def __init__(self, answers: list[Answer]) -> None:
        self.answers, self.asked = answers, list[tuple[str, str, bytes]]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _reply(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append((self.command, self.path, body))
                status, headers, content = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(content)
                self.close_connection = True

            do_GET = do_POST = do_PATCH = do_DELETE = _reply  # noqa: N815

            def log_message(self, format: str, *args: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"


@contextmanager
def api(*answers: Answer, outage_s: float = 60.0, pause: Callable[[float], object] | None = None) -> Iterator[Any]:
    server = Server(list(answers))
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    settings = Configuration()
    settings.host, settings.retries = server.url, False  # type: ignore[assignment]
    told: list[str] = []
    with ApiClient(settings) as client:
        made = Api(client, "ns", outage_s, told.append, pause or (lambda seconds: None))
        yield made, server, told
    server.http.shutdown()
    server.http.server_close()
    thread.join()


@pytest.mark.parametrize("trouble", [answer(500), answer(503), answer(429, Retry_After="2"), (0, {}, b"")])
def test_a_busy_api_is_asked_again(trouble: Answer) -> None:
    pauses: list[float] = []
    with api(trouble, trouble, answer(200, POD), pause=pauses.append) as (made, server, _):
        assert made.get(PODS, "p") == POD
    assert len(server.asked) == 3
    assert len(pauses) == 2
    if trouble[0] == 429:
        assert pauses == [2.0, 2.0], "as long as it asks for"


def test_an_api_that_stays_away_ends_the_waiting() -> None:
    with (
        api(answer(503), outage_s=0.2) as (made, _, _),
        pytest.raises(OutageError, match=r"stayed away for 0\.2 s: 503"),
    ):
        made.get(PODS, "p")


def test_what_does_not_exist_is_none_and_deleting_it_is_no_error() -> None:
    with api(answer(404, {"message": 'pods "p" not found'})) as (made, _, _):
        assert made.get(PODS, "p") is None
        assert not made.delete(PODS, "p")


def test_what_is_being_deleted_already_is_no_error() -> None:
    with api(answer(409, {"message": "being deleted"})) as (made, server, _):
        assert made.delete(PODS, "p")
    assert json.loads(server.asked[0][2])["propagationPolicy"] == "Foreground"


@pytest.mark.parametrize(
    ("status", "says"),
    [(403, "pods is forbidden.*Role that k8s/manifests has"), (422, "pods is forbidden"), (409, "pods is forbidden")],
)
def test_a_refusal_is_told_at_once_with_what_to_do(status: int, says: str) -> None:
    with (
        api(answer(status, {"message": "pods is forbidden"})) as (made, server, _),
        pytest.raises(RefusedError, match=says) as refused,
    ):
        made.create(PODS, {"metadata": {"name": "p"}})
    assert refused.value.status == status
    assert len(server.asked) == 1


def test_credentials_are_tried_again_as_tokens_change_and_then_refused() -> None:
    with api(answer(401), answer(200, POD)) as (made, _, _):
        assert made.get(PODS, "p") == POD
    with api(answer(401)) as (made, server, _), pytest.raises(RefusedError, match="log in to it again"):
        made.get(PODS, "p")
    assert len(server.asked) == 3


def test_objects_are_checked_strictly_and_a_dry_run_is_one() -> None:
    with api(answer(201, POD)) as (made, server, _):
        made.create(PODS, {"metadata": {"name": "p"}}, dry_run=True)
    assert server.asked[0][1] == "/api/v1/namespaces/ns/pods?fieldValidation=Strict&dryRun=All"


def events(*lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def test_a_watch_gives_changes_until_it_is_cut_within_a_line() -> None:
    content = events({"type": "ADDED", "object": POD}, {"type": "MODIFIED", "object": POD})
    with api(answer(200, content + b'{"type": "DEL')) as (made, server, _):
        found = list(made.watch(PODS, labels="a=b", version="5"))
    assert found == [("ADDED", POD), ("MODIFIED", POD)]
    assert "labelSelector=a%3Db&watch=true&resourceVersion=5" in server.asked[0][1]


@pytest.mark.parametrize(
    "gone", [answer(410, {"message": "too old"}), answer(200, events({"type": "ERROR", "object": {"code": 410}}))]
)
def test_a_watch_from_a_version_that_is_too_old_says_so(gone: Answer) -> None:
    with api(gone) as (made, _, _), pytest.raises(GoneError):
        list(made.watch(PODS, labels="", version="1"))


def test_a_log_is_given_once_however_often_it_is_cut() -> None:
    lines = [f"2026-01-01T00:00:0{i // 2}.{'5' if i % 2 else '1'}00000000Z line {i}".encode() for i in range(6)]
    same = [lines[-1][:31] + b"line 6", lines[-1][:31] + b"line 7"]
    every = [*lines, *same]
    cut = [
        answer(400, {"message": "container is waiting to start"}),
        answer(200, b"\n".join(every[:3]) + b"\n" + every[3][:20]),
        (0, {}, b""),
        answer(200, b"\n".join(every[2:6]) + b"\n"),
        answer(200, b"\n".join(every[4:]) + b"\n"),
    ]
    heard: list[tuple[int, bytes]] = []
    with api(*cut) as (made, server, _):
        logs = PodLogs(made, lambda node, line: heard.append((node, line)))
        logs.follow("uid", "p", 3)
        assert wait_until(lambda: len(heard) >= 8)
        logs.end("uid")
        logs.drain(10)
        logs.close()
    assert heard == [(3, f"line {i}".encode()) for i in range(8)]
    assert "sinceTime=2026-01-01T00%3A00%3A01Z" in server.asked[2][1]


def test_a_log_whose_last_connection_is_cut_is_read_again() -> None:
    lines = [f"2026-01-01T00:00:0{i}.100000000Z line {i}".encode() for i in range(6)]
    heard: list[bytes] = []
    first = answer(200, b"\n".join(lines[:3]) + b"\n")
    with api(first, (0, {}, b""), (0, {}, b""), answer(200, b"\n".join(lines) + b"\n")) as (made, _, _):
        logs = PodLogs(made, lambda node, line: heard.append(line))
        logs.follow("uid", "p", 0)
        assert wait_until(lambda: len(heard) == 3)
        logs.end("uid")
        logs.drain(10)
        logs.close()
    assert heard == [f"line {i}".encode() for i in range(6)]
