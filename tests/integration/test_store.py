"""The client of object stores against a real one: OpenStack Swift's S3 interface, killed, stalled and refusing."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import data.store
from configs.errors import DataError, UserError
from data.ranges import RangeCache
from data.store import Object, Store, open_store
from tests.swift import INSTALLED, ROOT, SECRET, Swift, swift

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="the package swift is not installed: pip install -r requirements.lock"),
]

SMALL, LARGE = random.Random(1).randbytes(100_000), random.Random(2).randbytes((24 << 20) + 12345)
DOWNLOAD = """
import sys
from pathlib import Path
import data.store
data.store.PART_BYTES = 1 << 18
store = data.store.open_store(sys.argv[1], endpoint=sys.argv[2])
store.download(store.head("large"), Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    with swift(tmp_path_factory.mktemp("swift")) as running:
        yield running


@pytest.fixture
def store(server: Swift, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """A folder of a bucket with a small object, and a large one that was put there in parts."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(f"{server.bucket('books')}/{request.node.name}", endpoint=server.endpoint)
    for path, content in {"small": SMALL, "large": LARGE}.items():
        (tmp_path / path).write_bytes(content)
        store.upload(tmp_path / path, path)
    return store


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def begun(target: Path, size: int = 1) -> bool:
    part = target.with_name(target.name + ".part")
    return part.exists() and part.stat().st_size >= size


class Watched(Store):
    """A store that tells where the ranges that it read began, and calls back before the third."""

    def __init__(self, store: Store, before_third: Callable[[], object] = int) -> None:
        super().__init__(store.url, store.endpoint)
        self.__dict__.update(starts=[], before_third=before_third)

    starts: list[int]
    before_third: Callable[[], object]

    def range(self, object: Object, start: int, end: int) -> bytes:
        self.starts.append(start)
        if len(self.starts) == 3:
            self.before_third()
        return super().range(object, start, end)


def test_objects_are_put_listed_and_read_in_ranges(store: Store, tmp_path: Path) -> None:
    large, small = store.list()
    assert [(each.path, each.size) for each in (large, small)] == [("large", len(LARGE)), ("small", len(SMALL))]
    assert large == store.head("large"), "a listing knows the same version as the object itself"
    assert store.get("small") == SMALL
    assert store.range(large, 12_345_678, 12_355_678) == LARGE[12_345_678:12_355_678]
    cache = RangeCache(store, 4 << 20)
    for offset, size in ((0, 100), (len(LARGE) - 7, 7), (3 << 20, 9 << 20), (5, 2 << 20)):
        assert cache.read(large, offset, size) == LARGE[offset : offset + size]
    store.download(large, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == LARGE


def test_what_is_there_already_is_not_sent_again(store: Store, server: Swift, tmp_path: Path) -> None:
    (made,) = server.folder.glob("devices/disk/objects")
    before = {path for path in made.rglob("*.data") if path.stat().st_size > 1 << 20}
    assert store.upload(tmp_path / "large", "large") == store.list()[0]
    assert {path for path in made.rglob("*.data") if path.stat().st_size > 1 << 20} == before


def test_a_download_survives_two_seconds_without_a_server(
    store: Store, server: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.store, "PART_BYTES", 1 << 20)
    killed, failures = threading.Event(), []

    def kill() -> None:
        server.stop()
        killed.set()

    def download() -> None:
        try:
            watched.download(watched.head("large"), tmp_path / "copy")
        except Exception as error:
            failures.append(error)

    watched = Watched(store, kill)
    thread = threading.Thread(target=download)
    thread.start()
    assert killed.wait(60)
    back_at = time.monotonic() + 2
    wait(lambda: time.monotonic() > back_at)
    assert thread.is_alive()
    server.restart()
    thread.join(60)
    assert not failures
    assert (tmp_path / "copy").read_bytes() == LARGE
    assert watched.starts == list(range(0, len(LARGE), 1 << 20)), "nothing is read twice"


def test_a_download_survives_a_kill_at_any_byte(
    store: Store, server: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server dies while an answer is on its way."""
    monkeypatch.setattr(data.store, "PART_BYTES", 1 << 18)
    thread = threading.Thread(target=lambda: store.download(store.head("large"), tmp_path / "copy"))
    thread.start()
    wait(lambda: begun(tmp_path / "copy"))
    server.stop()
    server.restart()
    thread.join(60)
    assert (tmp_path / "copy").read_bytes() == LARGE


def test_a_killed_download_is_continued_by_the_next_process(store: Store, server: Swift, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    command = [sys.executable, "-c", DOWNLOAD, store.url, server.endpoint, str(target)]
    with subprocess.Popen(command, cwd=ROOT) as child:
        wait(lambda: begun(target))
        child.kill()
    there = target.with_name("copy.part").stat().st_size
    assert 0 < there < len(LARGE)
    watched = Watched(store)
    watched.download(watched.head("large"), target)
    assert watched.starts[0] == there
    assert target.read_bytes() == LARGE


def test_a_server_that_stalls_is_asked_again(
    store: Store, server: Swift, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data.store, "STALL_S", 0.2)
    monkeypatch.setattr(data.store, "ALOUD_AFTER_S", 0)
    monkeypatch.setattr(data.store, "say", lambda *line: (lines.append(line), server.resume()))
    lines: list[tuple[str, ...]] = []
    server.pause()
    fresh = open_store(store.url, endpoint=store.endpoint)
    assert fresh.get("small") == SMALL
    assert "no answer in time" in lines[0][1]


def test_a_wrong_secret_is_refused_without_showing_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = SECRET[::-1]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong)
    refused = open_store(store.url, endpoint=store.endpoint)
    small = store.head("small")
    for request in (
        refused.list,
        lambda: refused.head("small"),
        lambda: refused.get("small"),
        lambda: refused.range(small, 0, 9),
        lambda: refused.download(small, tmp_path / "copy"),
        lambda: refused.upload(tmp_path / "large", "large"),
    ):
        with pytest.raises(UserError, match=r"refused the credentials.*AWS_SECRET_ACCESS_KEY") as caught:
            request()
        assert store.url in str(caught.value)
        assert wrong not in str(caught.value)
        assert Swift.access_key not in str(caught.value)


def test_an_object_replaced_in_mid_read_is_named(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").write_bytes(LARGE[::-1])
    monkeypatch.setattr(data.store, "PART_BYTES", 6 << 20)
    watched = Watched(store, lambda: store.upload(tmp_path / "other", "large"))
    with pytest.raises(DataError, match=f"{store.url}/large: replaced since it was listed"):
        watched.download(watched.head("large"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    store.download(store.head("large"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == LARGE[::-1], "the part of the other version is not continued"


def test_what_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(DataError, match=f"{store.url}/none: there is no such object"):
        store.get("none")
    with pytest.raises(DataError, match="s3://nowhere: there is no such bucket"):
        open_store("s3://nowhere", endpoint=store.endpoint).list()
    with pytest.raises(DataError, match="another region than mars-1"):
        open_store(store.url, endpoint=store.endpoint, region="mars-1").list()


def test_the_store_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    starter = "import sys, pathlib, tests.swift as s\nwith s.swift(pathlib.Path(sys.argv[1])) as it:\n"
    starter += "    print(it.child.pid, flush=True); input()"
    command = [sys.executable, "-c", starter, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        pid = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
    stat = Path(f"/proc/{pid}/stat")
    wait(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")
