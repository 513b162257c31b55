"""Object stores: whole objects and ranges, what is tried again and what is not, and the cache of ranges."""

import os
import pickle
import random
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data.store
from configs.errors import DataError, OutageError, UserError
from data.ranges import RangeCache
from data.store import Object, Store, open_store

SECRET = "wJalrXUtnFEMI"
KEY = "AKIAIOSFODNN7"
BODY = bytes(range(256)) * 4
REFUSAL = f"<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId></Error>".encode()


class Script(ThreadingHTTPServer):
    """An S3 server that answers as told, once each; afterwards it serves BODY, whole or in ranges."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers: list[tuple[int, bytes] | str] = []
        self.requests: list[str] = []
        self.goes_on = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    """One request to a Script."""

    protocol_version = "HTTP/1.1"
    server: socketserver.BaseServer

    def do_GET(self) -> None:
        assert isinstance(self.server, Script)
        self.server.requests.append(f"{self.command} {self.path}")
        answer = self.server.answers.pop(0) if self.server.answers else "whole"
        if isinstance(answer, tuple):
            self.answer(answer[0], answer[1])
        elif answer == "silence":
            self.server.goes_on.wait(10)
            self.close_connection = True
        else:
            asked = self.headers.get("Range") if answer != "no ranges" else None
            first, last = asked.removeprefix("bytes=").split("-") if asked else (0, len(BODY) - 1)
            body = BODY[int(first) : int(last) + 1]
            headers = {"Content-Range": f"bytes {first}-{last}/{len(BODY)}"} if asked else {}
            self.answer(206 if asked else 200, body, sent=len(body) // 2 if answer == "cut" else None, **headers)

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, status: int, body: bytes, sent: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"ETag": '"1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])
        self.close_connection = self.close_connection or sent is not None

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    for name, value in {"ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(data.store, "FIRST_PAUSE_S", 0.001)
    with Script() as script:
        thread = threading.Thread(target=script.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield script
        script.goes_on.set()
        script.shutdown()
        thread.join()


@pytest.fixture
def remote(server: Script) -> Store:
    return open_store("s3://bucket/folder", endpoint=server.endpoint)


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> Store:
    return open_store(f"memory://{request.node.name}")


def put(store: Store, path: str, content: bytes) -> Object:
    obstore.put(store._client, path, content)
    return store.head(path)


class Counting(Store):
    """A store that tells the ranges it was asked for, and fails after some."""

    def __init__(self, store: Store, fails_after: int = 1000) -> None:
        super().__init__(store.url)
        self.__dict__.update(asked=[], fails_after=fails_after)

    asked: list[tuple[int, int]]
    fails_after: int

    def range(self, object: Object, start: int, end: int) -> bytes:
        if len(self.asked) == self.fails_after:
            raise DataError("the store is away")
        self.asked.append((start, end))
        return super().range(object, start, end)


# whole objects


def test_objects_are_listed_by_path_without_the_markers_of_folders(memory: Store) -> None:
    for path, content in {"b/2": b"xy", "b": b"", "a": b"", "b/1": b"x", "c/d/3": b"xyz"}.items():
        put(memory, path, content)
    assert [(each.path, each.size) for each in memory.list()] == [("a", 0), ("b/1", 1), ("b/2", 2), ("c/d/3", 3)]
    assert [each.path for each in memory.list("b")] == ["b/1", "b/2"]
    assert memory.list()[1] == memory.head("b/1")


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_what_is_uploaded_can_be_read_and_downloaded(kind: str, tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/new/folder" if kind == "file" else "memory://round")
    (tmp_path / "source").write_bytes(BODY)
    stored = store.upload(tmp_path / "source", "a/b")
    assert stored == store.head("a/b") == store.list()[0]
    assert store.get("a/b") == BODY
    assert store.range(stored, 3, 9) == BODY[3:9]
    store.download(stored, tmp_path / "deep" / "target")
    assert (tmp_path / "deep" / "target").read_bytes() == BODY
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["target"]


def test_an_upload_of_the_same_bytes_changes_nothing(memory: Store, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(BODY)
    first = memory.upload(tmp_path / "source", "a")
    assert memory.upload(tmp_path / "source", "a") == first
    (tmp_path / "source").write_bytes(BODY[::-1])
    assert memory.upload(tmp_path / "source", "a") != first
    assert memory.get("a") == BODY[::-1]


def test_an_empty_object_is_an_object(memory: Store, tmp_path: Path) -> None:
    nothing = put(memory, "empty", b"")
    memory.download(nothing, tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""
    assert bytes(RangeCache(memory, 10).read(nothing, 0, 0)) == b""


def test_a_download_goes_on_where_it_was_interrupted(
    memory: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.store, "PART_BYTES", 100)
    stored = put(memory, "a", BODY)
    with pytest.raises(DataError, match="away"):
        Counting(memory, fails_after=4).download(stored, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    again = Counting(memory)
    again.download(stored, tmp_path / "a")
    assert again.asked[0] == (400, 500)
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_part_of_another_version_is_not_continued(
    memory: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.store, "PART_BYTES", 100)
    with pytest.raises(DataError, match="away"):
        Counting(memory, fails_after=4).download(put(memory, "a", BODY), tmp_path / "a")
    memory.download(put(memory, "a", BODY[::-1]), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY[::-1]


def test_a_part_longer_than_the_object_is_begun_anew(memory: Store, tmp_path: Path) -> None:
    stored = put(memory, "a", BODY)
    with pytest.raises(DataError, match="away"):
        Counting(memory, fails_after=0).download(stored, tmp_path / "a")
    (tmp_path / "a.part").write_bytes(BODY + b"more")
    memory.download(stored, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_an_object_replaced_since_it_was_listed_is_named(memory: Store, tmp_path: Path) -> None:
    listed = put(memory, "folder/a", BODY)
    put(memory, "folder/a", BODY[::-1])
    with pytest.raises(DataError, match=r"memory://.*/folder/a: replaced since it was listed"):
        memory.range(listed, 0, 10)
    with pytest.raises(DataError, match="replaced since it was listed"):
        memory.download(listed, tmp_path / "a")


def test_a_range_outside_of_the_object_is_refused(memory: Store) -> None:
    stored = put(memory, "a", BODY)
    for start, end in ((0, len(BODY) + 1), (-1, 3), (5, 4)):
        with pytest.raises(DataError, match=f"bytes {start} to {end} were asked for; it has {len(BODY)}"):
            memory.range(stored, start, end)


@pytest.mark.parametrize("url", ["memory://nothing", "file:///nowhere/at/all"])
def test_an_object_that_is_not_there_is_named(url: str) -> None:
    for read in (open_store(url).head, open_store(url).get):
        with pytest.raises(DataError, match=f"{url}/folder/a: there is no such object"):
            read("folder/a")


def test_a_path_that_leads_out_of_the_store_is_refused(memory: Store) -> None:
    with pytest.raises(DataError, match="no object can have that path"):
        memory.get("../a")


# the store itself


def test_a_store_can_be_pickled_and_connects_for_itself(memory: Store) -> None:
    put(memory, "a", BODY)
    copy = pickle.loads(pickle.dumps(memory))
    assert copy == memory
    assert copy.get("a") == BODY


@pytest.mark.parametrize("url", ["ftp://host/a", "bucket/folder", "s3://", "memory://", "file://relative/path"])
def test_what_is_not_a_store_is_refused(url: str) -> None:
    with pytest.raises(UserError, match=url):
        open_store(url)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    for url in (f"s3://{KEY}:{SECRET}@bucket/a", f"az://container/a?sig={SECRET}"):
        with pytest.raises(UserError, match="in the environment") as caught:
            open_store(url)
        assert SECRET not in str(caught.value)


def test_a_forked_process_is_told_instead_of_hanging(memory: Store) -> None:
    memory.list()
    child = os.fork()
    if not child:
        try:
            memory.list()
        except RuntimeError as error:
            os._exit(0 if "forked" in str(error) else 1)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


# what is tried again, and what is not


@pytest.mark.parametrize(
    "trouble",
    [
        [(503, b"<Code>SlowDown</Code>")] * 4,
        [(429, b"")] * 4,
        [(500, b"")] * 5,
        ["cut"] * 4,
        [(408, b"")],
        ["cut", (502, b"")],
    ],
    ids=["slow down", "too many", "broken", "cut", "timeout", "mixed"],
)
def test_a_passing_trouble_is_waited_for(trouble: list[tuple[int, bytes] | str], server: Script, remote: Store) -> None:
    server.answers = list(trouble)
    assert remote.get("a") == BODY
    server.answers = list(trouble)
    assert remote.range(Object("a", len(BODY), '"1"'), 10, 20) == BODY[10:20]
    assert not server.answers


def test_a_server_that_stays_broken_is_given_up(server: Script, remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.store, "PATIENCE_S", 0.05)
    server.answers = [(503, b"<Code>SlowDown</Code>")] * 1000
    with pytest.raises(OutageError, match=r"s3://bucket/folder/a: HTTP 503 SlowDown, .* at http.*run the same command"):
        remote.get("a")


def test_a_server_that_is_not_there_is_given_up(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.store, "PATIENCE_S", 0.05)
    with pytest.raises(OutageError, match="connection refused"):
        open_store("s3://bucket", endpoint="http://127.0.0.1:9").list()


def test_a_server_that_says_nothing_is_given_up(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.store, "PATIENCE_S", 0.05)
    monkeypatch.setattr(data.store, "STALL_S", 0.05)
    server.answers = ["silence"] * 1000
    with pytest.raises(OutageError, match="no answer in time"):
        open_store("s3://bucket", endpoint=server.endpoint).get("a")


def test_a_long_wait_is_said_once(
    server: Script, remote: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data.store, "ALOUD_AFTER_S", 0.0)
    server.answers = [(503, b"")] * 7
    remote.get("a")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("prepare | s3://bucket/folder/a: HTTP 503")


def outcome(request: Callable[[], object]) -> Exception:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the caller looks at it
        request()
    return caught.value


@pytest.mark.parametrize(
    "answer",
    [
        (403, REFUSAL),
        (401, REFUSAL),
        (400, b"<Error><Code>ExpiredToken</Code><Token-0>" + SECRET.encode() + b"</Token-0>"),
    ],
    ids=["wrong secret", "unknown", "expired"],
)
def test_refused_credentials_are_said_at_once_and_never_shown(
    answer: tuple[int, bytes], server: Script, remote: Store
) -> None:
    for request in (lambda: remote.get("a"), lambda: remote.list(), lambda: remote.range(Object("a", 9, "1"), 0, 9)):
        server.answers = [answer]
        error = outcome(request)
        assert isinstance(error, UserError)
        assert "s3://bucket/folder" in str(error)
        assert "refused the credentials" in str(error)
        assert "AWS_SECRET_ACCESS_KEY" in str(error)
        assert KEY not in str(error)
        assert SECRET not in str(error)
        assert error.__context__ is None, "a traceback would show the server's answer"
    assert len(server.requests) == 3


def test_no_credentials_at_all_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket").list()
    with pytest.raises(UserError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        open_store("az://container").list()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, b"<Error><Code>NoSuchKey</Code></Error>"), "s3://bucket/folder/a: there is no such object"),
        ((404, b"<Error><Code>NoSuchBucket</Code></Error>"), "s3://bucket/folder: there is no such bucket"),
        ((301, b""), "another region than the default one; set `region`"),
        ((400, b"<Code>AuthorizationHeaderMalformed</Code>"), "another region than the default one; set `region`"),
        ((412, b""), "s3://bucket/folder/a: replaced since it was listed"),
        ((416, b"<Code>InvalidRange</Code>"), r"cannot do this \(HTTP 416 InvalidRange\)"),
        ("no ranges", "it must know Range requests"),
    ],
)
def test_what_waiting_cannot_mend_is_said_at_once(
    answer: tuple[int, bytes] | str, message: str, server: Script, remote: Store
) -> None:
    server.answers = [answer]
    with pytest.raises(DataError, match=message):
        remote.range(Object("a", len(BODY), '"1"'), 0, 10)
    assert len(server.requests) == 1


def test_an_object_of_another_size_was_replaced(remote: Store) -> None:
    with pytest.raises(DataError, match="replaced since it was listed"):
        remote.range(Object("a", len(BODY) + 5, None), 0, 10)


# the cache


@given(st.data())
def test_every_read_through_the_cache_is_the_slice(data: st.DataObject) -> None:
    store = open_store("memory://slices")
    content = random.Random(data.draw(st.integers(0, 5))).randbytes(data.draw(st.integers(0, 300)))
    stored = put(store, "a", content)
    cache = RangeCache(store, data.draw(st.integers(1, 200)), data.draw(st.integers(1, 60)))
    for _ in range(data.draw(st.integers(1, 12))):
        offset = data.draw(st.integers(0, len(content)))
        size = data.draw(st.integers(0, len(content) - offset))
        assert bytes(cache.read(stored, offset, size)) == content[offset : offset + size]
        assert sum(map(len, cache.chunks.values())) <= max(cache.most * cache.chunk_bytes, cache.chunk_bytes)


def test_neighbouring_chunks_come_by_one_request(memory: Store) -> None:
    stored = put(memory, "a", BODY)
    store = Counting(memory)
    cache = RangeCache(store, 1000, 100)
    cache.read(stored, 250, 10)
    cache.read(stored, 20, 900)
    assert store.asked == [(200, 300), (0, 200), (300, 1000)]
    cache.read(stored, 1000, 24)
    assert store.asked[3:] == [(1000, 1024)]


def test_the_chunk_not_used_for_longest_goes_first(memory: Store) -> None:
    stored = put(memory, "a", BODY)
    store = Counting(memory)
    cache = RangeCache(store, 200, 100)
    for offset in (0, 100, 0, 200, 0, 100):
        cache.read(stored, offset, 10)
    assert store.asked == [(0, 100), (100, 200), (200, 300), (100, 200)]


def test_a_read_of_more_than_the_cache_passes_through(memory: Store) -> None:
    stored = put(memory, "a", BODY)
    store = Counting(memory)
    cache = RangeCache(store, 200, 100)
    assert bytes(cache.read(stored, 0, len(BODY))) == BODY
    assert store.asked == [(0, len(BODY))]
    assert len(cache.chunks) == 2


def test_versions_do_not_mix_in_the_cache(memory: Store) -> None:
    first = put(memory, "a", BODY)
    cache = RangeCache(memory, 1000, 100)
    cache.read(first, 0, 10)
    second = put(memory, "a", BODY[::-1])
    assert bytes(cache.read(second, 0, 10)) == BODY[::-1][:10]


def test_a_cached_read_outside_of_the_object_is_refused(memory: Store) -> None:
    cache = RangeCache(memory, 1000, 100)
    for offset, size in ((1020, 5), (-1, 3), (0, -1)):
        with pytest.raises(DataError, match="were asked for"):
            cache.read(put(memory, "a", BODY), offset, size)
