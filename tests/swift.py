"""A real object store on loopback: OpenStack Swift with its S3 interface, all four servers in one child process.

python -m tests.swift FOLDER is that child; tests use `swift(folder)`.
"""

import base64
import contextlib
import hashlib
import hmac
import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ACCOUNT, USER, SECRET = "trainworks", "tests", "open-sesame-314159"
READY_S = 60.0
INSTALLED = importlib.util.find_spec("swift") is not None

_PROXY = f"""
[DEFAULT]
swift_dir = {{folder}}
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_{ACCOUNT}_{USER} = {SECRET} .admin
[filter:slo]
use = egg:swift#slo
"""
_BACKEND = """
[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
[app:main]
use = egg:swift#{name}
"""
_BACKENDS = ("account", "container", "object")


class Swift:
    """The running store, and the credentials of its one user."""

    access_key, secret_key = f"{ACCOUNT}:{USER}", SECRET

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(zip(("proxy", *_BACKENDS), free_ports(1 + len(_BACKENDS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self.ports['proxy']}"
        self.child: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a client needs."""
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return keys | {"NO_PROXY": "127.0.0.1"}

    def restart(self) -> None:
        """Start the servers, on the same ports and with what was stored; returns when they answer."""
        self.stop()
        with (self.folder / "log").open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "tests.swift", str(self.folder)], cwd=ROOT, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_S
        while not self._answers():
            if self.child.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"Swift did not start: {(self.folder / 'log').read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill the servers as a power cut would."""
        if self.child:
            self.child.kill()
            self.child.wait()
            self.child = None

    def pause(self) -> None:
        """Let connections stay open and nothing answer."""
        assert self.child
        self.child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.child
        self.child.send_signal(signal.SIGCONT)

    def bucket(self, name: str) -> str:
        """Make a bucket, if it is not there; returns its URL."""
        date = formatdate(usegmt=True)
        digest = hmac.new(SECRET.encode(), f"PUT\n\n\n{date}\n/{name}".encode(), hashlib.sha1).digest()
        signature = f"AWS {self.access_key}:{base64.b64encode(digest).decode()}"
        headers = {"Date": date, "Authorization": signature}  # AWS signature version 2
        try:
            _open(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT", headers=headers)).close()
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 409:  # it is there
                    raise
        return f"s3://{name}"

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), _open(urllib.request.Request(f"{self.endpoint}/healthcheck")):
            return True
        return False


@contextlib.contextmanager
def swift(folder: Path) -> Iterator[Swift]:
    """A store that keeps its objects in the folder, whose file system must know user xattrs; gone at the end."""
    store = Swift(folder)
    _write_configuration(store)
    try:
        store.restart()
        yield store
    finally:
        store.stop()


def _open(request: urllib.request.Request) -> Any:
    """The answer, whatever proxy the environment names: the store is on this machine."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _write_configuration(store: Swift) -> None:
    folder = store.folder
    (folder / "devices" / "disk").mkdir(parents=True)
    (folder / "ports.json").write_text(json.dumps(store.ports), encoding="utf-8")
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = tests\n", encoding="utf-8")
    (folder / "proxy.conf").write_text(_PROXY.format(folder=folder), encoding="utf-8")
    for name in _BACKENDS:
        (folder / f"{name}.conf").write_text(_BACKEND.format(folder=folder, name=name), encoding="utf-8")


def _write_rings(folder: Path, ports: dict[str, int]) -> None:
    """Where each kind of thing lies: one copy, on the one disk of this machine."""
    from swift.common.ring import RingBuilder

    for name in _BACKENDS:
        builder = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
        place = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": ports[name], "device": "disk", "weight": 1}
        builder.add_dev(place | {"replication_ip": "127.0.0.1", "replication_port": ports[name]})
        builder.rebalance(seed=0)
        builder.get_ring().save(str(folder / f"{name}.ring.gz"))


def serve(folder: Path) -> None:
    """Serve all four on their ports until killed."""
    from swift.common import utils

    utils.monkey_patch()  # before anything that it patches is in use
    import eventlet
    import eventlet.wsgi
    from swift.common import storage_policy, wsgi

    from configs.process import die_with_parent

    die_with_parent()
    utils.set_swift_dir(str(folder))
    storage_policy.reload_storage_policies()
    ports = json.loads((folder / "ports.json").read_text(encoding="utf-8"))
    _write_rings(folder, ports)
    servers = []
    for name, port in ports.items():
        app = wsgi.loadapp(str(folder / f"{name}.conf"), {"log_name": name})
        servers.append(
            eventlet.spawn(
                eventlet.wsgi.server,
                eventlet.listen(("127.0.0.1", port)),
                app,
                utils.NullLogger(),
                protocol=wsgi.SwiftHttpProtocol,
                capitalize_response_headers=False,  # S3 clients look for ETag, not Etag
            )
        )
    for server in servers:
        server.wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
