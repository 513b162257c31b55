"""A W&B server for tests: what wandb-core 0.31 sends over HTTP is kept as the real one keeps it; faults on demand."""

import gzip
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

_OPERATION = re.compile(r"(?:query|mutation)\s+(\w+)")
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])")
Fault = Literal["503", "401", "403", "hang"]
HISTORY, EVENTS, SUMMARY = "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json"


@dataclass
class Run:
    """A run as the server has it."""

    name: str
    sent: dict[str, Any]
    """The variables of the calls that made and changed it, the last of each name that said something"""
    lines: dict[str, list[str]] = field(default_factory=lambda: {HISTORY: [], EVENTS: []})
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    exit_code: int | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    """Identities of the artifacts that it has used"""
    torn: list[str] = field(default_factory=list)
    """What came in a way in which no client may send it"""

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines[HISTORY]]


@dataclass
class Artifact:
    """One version of an artifact."""

    identity: str
    digest: str
    name: str
    kind: str
    by: str
    aliases: list[str]
    metadata: dict[str, Any]
    committed: bool = False


class WandbServer:
    """Listens at `url` while its context lasts. `fault` answers every request until it is taken back."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.blobs: dict[str, bytes] = {}
        self.operations: list[str] = []
        self.keys: set[str] = set()
        self.fault: Fault | None = None
        self.on_history: Callable[[Run], None] = lambda run: None
        self.refuse_id: str | None = None
        """A run of this identity was deleted: the server takes it no more"""
        self._lock = threading.RLock()
        owner = self

        class Handler(_Handler):
            server_of_tests = owner

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.fault = None
        self._http.shutdown()
        self._http.server_close()

    @contextmanager
    def broken(self, fault: Fault) -> Iterator[None]:
        """Answer every request so for a while."""
        self.fault = fault
        try:
            yield
        finally:
            self.fault = None

    def one(self, kind: str) -> Run:
        """The only run of a job type."""
        (run,) = [run for run in self.runs.values() if run.sent.get("jobType") == kind]
        return run

    # --- what is asked ---

    def answer(self, operation: str, query: str, given: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self.operations.append(operation)
            method = getattr(self, f"_on_{_CAPITAL.sub('_', operation).lower()}", None)
            return method(given.get("input", given)) if method else {}

    def _on_run_resume_status(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        return {"model": {"id": "P", "name": given["project"], "entity": _ENTITY, "bucket": run and _told(run)}}

    def _on_upsert_bucket(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["name"] == self.refuse_id:
            raise PermissionError(f"run {given['name']} was previously created and deleted; try a new run name")
        new = given["name"] not in self.runs
        run = self.runs.setdefault(given["name"], Run(given["name"], {}))
        run.sent |= {name: value for name, value in given.items() if value is not None}
        if given.get("config"):
            run.config |= {name: each["value"] for name, each in json.loads(given["config"]).items()}
        if given.get("tags") is not None:
            run.tags = given["tags"]
        if given.get("summaryMetrics"):
            run.summary |= json.loads(given["summaryMetrics"])
        return {"upsertBucket": {"bucket": _told(run), "inserted": new}}

    def _on_notify_scriptable_run_alert(self, given: dict[str, Any]) -> dict[str, Any]:
        self.runs[given["runName"]].alerts.append(given)
        return {"notifyScriptableRunAlert": {"success": True}}

    def _on_create_run_files(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/put/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _on_viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "U", "entity": "team", "username": "tester", "email": "t@example.com", "flags": "{}"}
        return {"viewer": viewer | {"teams": {"edges": []}}}

    def _on_artifact_type(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _on_server_features_query(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _on_create_artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        name, digest = given["artifactCollectionName"], given["digest"]
        found = next((each for each in self.artifacts.values() if (each.name, each.digest) == (name, digest)), None)
        if found is None:
            identity = f"artifact-{len(self.artifacts)}"
            metadata = json.loads(given["metadata"] or "{}")
            kind, by = given["artifactTypeName"], given["runName"] or ""
            found = self.artifacts[identity] = Artifact(identity, digest, name, kind, by, [], metadata)
        found.by = found.by or given["runName"] or ""
        found.aliases += [each["alias"] for each in given["aliases"] or () if each["alias"] not in found.aliases]
        state = "COMMITTED" if found.committed else "PENDING"
        return {"createArtifact": {"artifact": {"id": found.identity, "state": state, "artifactSequence": {}}}}

    def _on_create_artifact_manifest(self, given: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "F", "name": "manifest", "displayName": "manifest", "uploadHeaders": []}
        file["uploadUrl"] = f"{self.url}/put/artifact/{given['artifactID']}-manifest"
        return {"createArtifactManifest": {"artifactManifest": {"id": f"M-{given['artifactID']}", "file": file}}}

    def _on_create_artifact_files(self, given: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for spec in given["artifactFiles"]:
            place = f"{spec['artifactID']}-{spec['name']}".replace("/", "_")
            node = {"id": place, "name": spec["name"], "displayName": spec["name"], "uploadHeaders": []}
            node |= {"uploadUrl": f"{self.url}/put/artifact/{place}", "storagePath": None, "artifact": {"id": "A"}}
            node |= {"uploadMultipartUrls": None}
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _on_commit_artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[given["artifactID"]].committed = True
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}

    def _on_use_artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.runs[given["runName"]].used.append(given["artifactID"])
        return {"useArtifact": {"artifact": {"id": given["artifactID"], "digest": "", "state": "COMMITTED"}}}

    def _on_artifact_by_id(self, given: dict[str, Any]) -> dict[str, Any]:
        it = self.artifacts[given["id"]]
        project = {"id": "P", "internalId": "1", "name": "trainworks", "entity": {"name": "team"}}
        sequence = {"__typename": "ArtifactSequence", "name": it.name, "project": project}
        absent = ("description", "historyStep", "commitHash", "updatedAt")
        told: dict[str, Any] = dict.fromkeys(absent) | {
            "ttlIsInherited": False,
            "ttlDurationSeconds": -1,
            "tags": [],
            "aliases": [],
        }
        told |= {
            "id": it.identity,
            "artifactSequence": sequence,
            "versionIndex": 0,
            "ttlDurationSeconds": -1,
            "artifactType": {"name": it.kind},
        }
        told |= {"metadata": json.dumps(it.metadata), "state": "COMMITTED", "size": 0, "digest": it.digest}
        return {"artifact": told | {"__typename": "Artifact", "fileCount": 1, "createdAt": "2026-01-01T00:00:00"}}

    def _on_run_of_trainworks(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": (run := self.runs.get(given["run"])) and _told(run)}}

    # --- what is streamed ---

    def stream(self, name: str, body: dict[str, Any]) -> None:
        with self._lock:
            run = self.runs[name]
            for file, chunk in body.get("files", {}).items():
                if file == SUMMARY:
                    run.summary |= json.loads(chunk["content"][-1])
                elif file in run.lines:
                    self._append(run, file, chunk["offset"], chunk["content"])
            if body.get("complete"):
                run.exit_code = body.get("exitcode")
            if HISTORY in body.get("files", {}):
                self.on_history(run)

    def _append(self, run: Run, file: str, offset: int, lines: list[str]) -> None:
        """Lines at an offset: again the same where there are some, and never beyond the end."""
        there = run.lines[file]
        if offset > len(there):
            run.torn.append(f"{file}: lines from {offset}, where {len(there)} are")
        for place, line in enumerate(lines, offset):
            if place < len(there) and there[place] != line:
                run.torn.append(f"{file}: line {place} was {there[place]}, and came as {line}")
        there[offset : offset + len(lines)] = lines


_ENTITY = {"id": "E", "name": "team"}


def _told(run: Run) -> dict[str, Any]:
    history = run.lines[HISTORY]
    return {
        "id": f"storage-{run.name}",
        "name": run.name,
        "displayName": run.sent.get("displayName") or run.name,
        "description": None,
        "sweepName": None,
        "summaryMetrics": json.dumps(run.summary),
        "logLineCount": 0,
        "historyLineCount": len(history),
        "eventsLineCount": len(run.lines[EVENTS]),
        "historyTail": json.dumps(history[-1:]),  # texts in a text
        "eventsTail": json.dumps(run.lines[EVENTS][-1:]),
        "config": json.dumps({name: {"value": value} for name, value in run.config.items()}),
        "tags": run.tags,
        "notes": None,
        "wandbConfig": json.dumps({"t": 1}),
        "lastHistoryStep": run.history[-1]["_step"] if history else -1,
        "project": {"id": "P", "name": "trainworks", "entity": _ENTITY},
    }


class _Handler(BaseHTTPRequestHandler):
    server_of_tests: WandbServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body, owner = self._body(), self.server_of_tests
        owner.keys.add(self.headers.get("Authorization", ""))
        if self._faulty(owner.fault):
            return
        if self.path == "/graphql":
            asked = json.loads(body)
            operation = _OPERATION.search(asked["query"])[1]  # type: ignore[index]
            try:
                self._send({"data": owner.answer(operation, asked.get("query", ""), asked.get("variables") or {})})
            except PermissionError as error:
                self._send({"errors": [{"message": str(error)}]}, 409)
        elif self.path.endswith("/file_stream"):
            owner.stream(self.path.split("/")[-2], json.loads(body))
            self._send({"exitcode": None, "limits": {}})
        else:
            self._send({})

    def do_PUT(self) -> None:
        body, owner = self._body(), self.server_of_tests
        if not self._faulty(owner.fault):
            _, _, run, name = self.path.split("/", 3)
            if run == "artifact":
                owner.blobs[name] = body
            else:
                owner.runs[run].files[name] = body
            self._send({})

    def _faulty(self, fault: Fault | None) -> bool:
        if fault == "hang":
            deadline = time.monotonic() + 30
            while self.server_of_tests.fault == "hang" and time.monotonic() < deadline:
                time.sleep(0.05)
            self.close_connection = True
        elif fault:
            self._send({"errors": [{"message": f"as planted: {fault}"}]}, int(fault))
        return fault is not None

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client that is gone
            super().handle()

    def log_message(self, format: str, *args: Any) -> None: ...
