"""Object stores (S3, Google, Azure; a folder or memory behind the same interface): whole objects, ranges, retry.

Credentials come from the environment or the provider's own chain, and no message repeats what a server answered.
"""

import contextlib
import json
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    BaseError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore, S3Store

from configs.errors import DataError, OutageError, UserError
from configs.folder import file_digest, sync, write_atomic
from data.progress import say

T = TypeVar("T")

PATIENCE_S = 120.0  # a store's restart or a failing-over load balancer is over by then; a longer outage needs a person
FIRST_PAUSE_S = 0.2  # quick after a blip, then doubled
LONGEST_PAUSE_S = 10.0  # gentle with a sick server
ALOUD_AFTER_S = 4.0  # shorter waits are nobody's business
STALL_S, REQUEST_S = 30, 120  # without a byte; in all: enough for PART_BYTES at 70 kB/s
PART_BYTES = 8 << 20  # of a download or upload: what a broken connection costs, and S3's 5 MiB at least
MOST_PARTS = 9_000  # S3 takes 10,000
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the web identity, container or instance "
    "role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT_KEY, or the instance's service account",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, AZURE_CLIENT_ID and "
    "AZURE_CLIENT_SECRET, or the managed identity",
}
_ENDPOINTS = {"s3": "endpoint", "gs": "base_url", "az": "endpoint"}  # what each provider's client calls it
_EXPIRED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}  # S3 says them with status 400
_BUSY = {408, 409, 429}  # of the answers that blame the client, those that another try may mend
_CAUSES = (
    ("ConnectionRefused", "connection refused"),
    ("dns error", "no host of that name"),
    ("IncompleteBody|UnexpectedEof", "the answer was cut short"),
    ("TimedOut|kind: Timeout", "no answer in time"),
)
_runtime: list[int] = []  # number of the process whose threads the client runs on


@dataclass(frozen=True)
class Object:
    """One stored object, as it was when it was listed."""

    path: str
    """Below the store's URL"""
    size: int
    """Bytes"""
    etag: str | None
    """Another content has another one"""


class _Short(Exception):  # noqa: N818  a reason to try again
    """Fewer bytes came than were asked for."""


@dataclass(frozen=True)
class Store:
    """Objects below a URL. It can be pickled; each process connects for itself, and may not have forked before.

    Every method raises DataError or UserError, with the object's URL and what to do. A failing connection, 429, 5xx
    and cut answers are tried again for PATIENCE_S seconds.
    """

    url: str
    endpoint: str | None = None
    region: str | None = None
    stage: str = "prepare"
    """Whose lines say that the store keeps us waiting"""

    def list(self, prefix: str = "") -> list[Object]:
        """All objects below the folder `prefix`, by path; empty markers that some tools put for folders are none."""
        found = self._try(prefix, lambda: obstore.list(self._client, prefix or None).collect())
        folders = {str(folder) for each in found for folder in PurePosixPath(each["path"]).parents}
        objects = [_object(each) for each in found if each["size"] or each["path"] not in folders]
        return sorted(objects, key=lambda each: each.path)

    def head(self, path: str) -> Object:
        """What lies at the path now."""
        return self._try(path, lambda: _object(obstore.head(self._client, path)))

    def get(self, path: str) -> bytes:
        """A whole small object."""
        return self._try(path, lambda: obstore.get(self._client, path).bytes().to_bytes())

    def range(self, object: Object, start: int, end: int) -> bytes:
        """Bytes start to end, without end, of the very version that was listed: DataError if there is another now."""
        if not 0 <= start <= end <= object.size:
            raise DataError(f"{self._name(object.path)}: bytes {start} to {end} were asked for; it has {object.size}")
        return self._try(object.path, lambda: self._range(object, start, end)) if start < end else b""

    def download(self, object: Object, target: Path) -> None:
        """Put the object at `target`, whole or not at all; the `.part` of an earlier try at it is continued."""
        target.parent.mkdir(parents=True, exist_ok=True)
        part, note = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")
        version = json.dumps({"url": self.url, **asdict(object)}, sort_keys=True)
        if object.etag is None or not _is_begun(part, note, version, object.size):
            part.unlink(missing_ok=True)  # before the note that vouches for it
            write_atomic(note, version)
        with part.open("ab") as file:
            for start in range(file.tell(), object.size, PART_BYTES):
                file.write(self.range(object, start, min(start + PART_BYTES, object.size)))
                file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
        note.unlink()
        sync(target.parent)

    def upload(self, source: Path, path: str) -> Object:
        """Put a file at the path, in parts where it is large, unless its very bytes are there already."""
        size, sha256 = source.stat().st_size, file_digest(source)
        attributes: Any = {"sha256": sha256}
        if self.url.startswith("file:"):
            Path(urlsplit(self.url).path).mkdir(parents=True, exist_ok=True)
            attributes = None  # a file system has no place for the digest
        elif self._holds(path, size, sha256):
            return self.head(path)
        part_bytes = max(PART_BYTES, -(-size // MOST_PARTS))

        def put() -> None:
            # four parts at a time are the memory it takes
            obstore.put(self._client, path, source, attributes=attributes, chunk_size=part_bytes, max_concurrency=4)

        self._try(path, put)
        stored = self.head(path)
        if stored.size != size:
            raise DataError(
                f"{self._name(path)}: {size} bytes were sent and {stored.size} are there; is another writing?"
            )
        return stored

    def __getstate__(self) -> dict[str, Any]:
        return asdict(self)

    @cached_property
    def _client(self) -> Any:
        return _connect(self.url, self.endpoint, self.region)

    def _name(self, path: str) -> str:
        return f"{self.url.rstrip('/')}/{path}".rstrip("/")

    def _range(self, object: Object, start: int, end: int) -> bytes:
        wanted: Any = {"range": (start, end)} | ({"if_match": object.etag} if object.etag else {})
        answer = obstore.get(self._client, object.path, options=wanted)
        if answer.meta["size"] != object.size:
            raise PreconditionError
        data = answer.bytes().to_bytes()
        if len(data) != end - start:
            raise _Short
        return data

    def _holds(self, path: str, size: int, sha256: str) -> bool:
        def look() -> bool:
            with contextlib.suppress(FileNotFoundError):
                answer = obstore.get(self._client, path, options={"head": True})
                return (answer.meta["size"], answer.attributes.get("sha256")) == (size, sha256)
            return False

        return self._try(path, look)

    def _try(self, path: str, request: Callable[[], T]) -> T:
        """The request's answer, as soon as the store gives it."""
        pause_s, failed_at, aloud = FIRST_PAUSE_S, None, False
        while True:
            _keep_process()
            failure: Exception | str
            try:
                return request()
            except (BaseError, OSError, ValueError, _Short) as error:
                failure = self._judge(path, error)
            if isinstance(failure, Exception):
                raise failure  # outside the handler: a traceback would show the server's answer
            failed_at = failed_at or time.monotonic()
            waited_s = time.monotonic() - failed_at
            if waited_s + pause_s > PATIENCE_S:
                raise OutageError(
                    f"{self._name(path)}: {failure}, for {PATIENCE_S:.0f} s{self._at()}; see whether the store is up "
                    "and can be reached from here, then run the same command again"
                )
            if not aloud and waited_s + pause_s > ALOUD_AFTER_S:
                say(self.stage, f"{self._name(path)}: {failure}{self._at()}; trying again for {PATIENCE_S:.0f} s")
                aloud = True
            time.sleep(pause_s * random.Random().uniform(0.5, 1))  # many ranks must not come back at once
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _judge(self, path: str, error: Exception) -> Exception | str:
        """What to raise, or why to try again. Nothing of the raw text is repeated: it can hold keys and signed URLs."""
        name, text, scheme = self._name(path), str(error), urlsplit(self.url).scheme
        found = re.search(r"status: (\d{3}),", text)
        status = int(found[1]) if found else None
        code = found[1] if (found := re.search(r"<Code>(\w{1,60})</Code>", text)) else ""
        said = " ".join(filter(None, [f"HTTP {status}" if status else "", code]))
        if scheme in CREDENTIALS and _is_refusal(error, text, status, code):
            return UserError(
                f"{name}: the store refused the credentials ({said or 'there are none that can be used'}){self._at()}; "
                f"they are read from {CREDENTIALS[scheme]}: see that they are right, in force and allowed to do this"
            )
        if isinstance(error, PreconditionError):
            return DataError(
                f"{name}: replaced since it was listed; let nothing write there, and run the command again"
            )
        if code == "NoSuchBucket" or (status == 404 and not isinstance(error, FileNotFoundError)):
            return DataError(f"{self.url}: there is no such bucket{self._at()}; see the URL, endpoint and region")
        if isinstance(error, FileNotFoundError) or "UnableToCanonicalize" in text:
            return DataError(f"{name}: there is no such object{self._at()}; see its URL, or that nothing removed it")
        if "BareRedirect" in text or code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
            region = self.region or "the default one"
            return DataError(f"{name}: the bucket is in another region than {region}; set `region`")
        if "invalid peer certificate" in text:
            return DataError(
                f"{name}: the server's certificate is not trusted{self._at()}; see the system's store of them"
            )
        if "NotPartial" in text:
            return DataError(f"{name}: the server sends whole objects only{self._at()}; it must know Range requests")
        if isinstance(error, ValueError):
            return DataError(f"{name}: no object can have that path; `..`, `//` and the like are no part of one")
        if scheme not in CREDENTIALS:
            return DataError(f"{name}: {text.partition('Debug source')[0].strip()}")
        refused = status is not None and status < 500 and status not in _BUSY and code != "RequestTimeout"
        if refused or not isinstance(error, GenericError | _Short):
            return DataError(f"{name}: the store cannot do this ({said or type(error).__name__}){self._at()}")
        if isinstance(error, _Short):
            return "the answer was cut short"
        return said or next((cause for words, cause in _CAUSES if re.search(words, text)), "the connection was lost")

    def _at(self) -> str:
        return f" at {self.endpoint}" if self.endpoint else ""


def open_store(url: str, *, endpoint: str | None = None, region: str | None = None, stage: str = "prepare") -> Store:
    """The store at s3://bucket/folder, gs://..., az://container/..., file:///folder or memory://name (this process's).

    `endpoint` is the address of another server than the provider's own; http:// is allowed there alone. Raises
    UserError.
    """
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or "@" in parts.netloc:
        raise UserError(
            f"{parts.scheme}://...: a store's URL holds no credentials and no query; they belong in the environment"
        )
    if parts.scheme not in (*CREDENTIALS, "memory", "file") or not (parts.netloc or parts.scheme == "file"):
        raise UserError(f"{url}: not a store; s3://bucket/folder, gs://, az://, file:///folder or memory://name are")
    if parts.scheme == "file" and (parts.netloc or not parts.path):
        raise UserError(f"{url}: a folder is named by its whole path, as in file:///data/shards")
    return Store(url, endpoint, region, stage)


def _connect(url: str, endpoint: str | None, region: str | None) -> Any:
    """A client of the provider; raises obstore's errors."""
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return _memory(url)
    if parts.scheme == "file":
        return LocalStore(Path(parts.path), mkdir=False)
    config: Any = {_ENDPOINTS[parts.scheme]: endpoint} if endpoint else {}
    if region and parts.scheme == "s3":
        config["region"] = region
    provider = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[parts.scheme]
    return provider.from_url(
        url,
        config=config,
        client_options={
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "connect_timeout": timedelta(seconds=10),
            "read_timeout": timedelta(seconds=STALL_S),
            "timeout": timedelta(seconds=REQUEST_S),
        },
        # blips alone, so that one lost part of an upload does not start it over: `Store._try` has the patience
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=5)},
    )


@cache
def _memory(url: str) -> MemoryStore:
    return MemoryStore()


def _keep_process() -> None:
    """Raise where a request would never come back: the client's threads do not live on in a forked process."""
    if not _runtime:
        _runtime.append(os.getpid())
    if _runtime[0] != os.getpid():
        raise RuntimeError("this process was forked from one that used a store; start it with `spawn` or `forkserver`")


def _object(meta: Any) -> Object:
    return Object(meta["path"], meta["size"], meta["e_tag"])


def _is_begun(part: Path, note: Path, version: str, size: int) -> bool:
    """Whether `part` holds the beginning of this version."""
    known = note.exists() and note.read_text(encoding="utf-8") == version
    return known and part.exists() and part.stat().st_size <= size


def _is_refusal(error: Exception, text: str, status: int | None, code: str) -> bool:
    """Whether the store, or whoever hands out credentials, does not accept us."""
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in (401, 403) or code in _EXPIRED:
        return True
    # the last place where a provider's client looks: this machine has no role, or is not the provider's
    role = r"/latest/api/token|/latest/meta-data/|/computeMetadata/|/metadata/identity"
    if re.search(role, text) and (status is None or status < 500):
        return True
    return status is None and bool(re.search(r"Credential \{|MissingAccount|InvalidAccessKey \{", text))
