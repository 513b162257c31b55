"""A small W&B server: its account, and the saved views of one project, over real HTTP."""

import base64
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

KEY = "0123456789abcdef0123456789abcdef01234567"
ENTITY, PROJECT = "team", "trainworks"
Mode = Literal["well", "hang", "trickle", "redirect", "page", "list", "break"]


@dataclass
class Views:
    """What it holds, and how it behaves; `rest` is how it behaves from the second call on."""

    views: list[dict[str, str]] = field(default_factory=list)
    first: Mode | int = "well"
    rest: Mode | int = "well"
    refusal: str = ""
    """What it says of every mutation, if anything"""
    calls: list[str] = field(default_factory=list)
    """By the first word of each query's operation"""
    keys: list[str] = field(default_factory=list)
    """Whom each call was made by"""
    ended: threading.Event = field(default_factory=threading.Event)

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if "viewer" in query:
            return {"data": {"viewer": {"entity": ENTITY, "username": "somebody"}}}
        if "mutation" in query:
            return self._upsert(given)
        if (given["entity"], given["project"]) != (ENTITY, PROJECT):
            return {"data": {"project": None}}
        start = int(given["after"] or 0)
        page = self.views[start : start + given["first"]]
        more = start + len(page) < len(self.views)
        edges = [{"node": {name: view[name] for name in ("id", "name", "displayName")}} for view in page]
        info = {"hasNextPage": more, "endCursor": str(start + len(page))}
        return {"data": {"project": {"allViews": {"edges": edges, "pageInfo": info}}}}

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        if self.refusal:
            return {"errors": [{"message": self.refusal}], "data": {"upsertView": None}}
        found = next((view for view in self.views if view["id"] == given["id"]), None)
        view = found if found is not None else {"id": f"view-{len(self.views)}"}
        view |= {name: given[name] for name in ("name", "displayName", "spec")}
        if found is None:
            self.views.append(view)
        return {"data": {"upsertView": {"view": {"id": view["id"], "name": view["name"]}, "inserted": found is None}}}


class WandbServer(ThreadingHTTPServer):
    """Serves `views` in a thread until it is closed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.views = Views()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.views.ended.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    @property
    def views(self) -> Views:
        assert isinstance(self.server, WandbServer)
        return self.server.views

    def do_GET(self) -> None:  # where a followed redirection would come
        self.views.calls.append("GET")
        self._send(200, b"{}")

    def do_POST(self) -> None:
        views = self.views
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        login = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        mode = views.rest if views.calls else views.first
        views.keys.append(login.removeprefix("api:"))
        views.calls.append(body["query"].split("(")[0].split()[1])
        if isinstance(mode, int):
            return self._send(mode, json.dumps({"errors": [{"message": f"no: {login}"}]}).encode())
        if mode == "hang":
            views.ended.wait()
        elif mode == "trickle":
            self._trickle()
        elif mode == "redirect":
            self._send(302, b"", location="/elsewhere")
        elif mode == "page":
            self._send(200, b"<html>a proxy's page</html>")
        elif mode == "list":
            self._send(200, b"[]")
        elif mode == "well":
            self._send(200, json.dumps(views.answer(body["query"], body["variables"])).encode())
        return None  # `break`: not a word

    def _trickle(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.views.ended.wait(0.05):
            try:
                self.wfile.write(b" ")
            except OSError:
                return

    def _send(self, status: int, body: bytes, *, location: str = "") -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
