"""Workspaces become one saved view each, over real HTTP; whatever goes wrong is one line, in time, without the key."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from wandb.apis.public.reports import Reports
from wandb_workspaces.workspaces import internal

from configs.errors import OutageError, UserError
from pipelines.dashboards.__main__ import main
from pipelines.dashboards.build import spec_of, workspace_of
from pipelines.dashboards.names import NIGHTLY, Place, display_name, names, view_key
from pipelines.dashboards.push import push
from pipelines.dashboards.server import UPSERT, VIEWS, Server
from tests.golden.__main__ import CONFIGS
from tests.wandb_views import ENTITY, KEY, PROJECT, Mode, WandbServer

PLACE = Place(ENTITY, PROJECT)
ONE = "causal_lm"


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    server = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", server.address)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.close()


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that failed, in which the key is not."""
    out, err = capsys.readouterr()
    assert KEY not in out + err
    lines = err.splitlines()
    assert len(lines) == 1, err
    return lines[0]


def test_pushing_twice_leaves_one_view_of_each_name(wandb: WandbServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push"]) == 0
    first = capsys.readouterr()
    assert [view["displayName"] for view in wandb.views.views] == [display_name(name) for name in names()]
    assert first.out.count(": made ") == len(names())
    before = json.dumps(wandb.views.views)
    assert main(["push"]) == 0
    assert capsys.readouterr().out == first.out.replace(": made ", ": updated ")
    assert json.dumps(wandb.views.views) == before
    assert KEY not in first.out + first.err
    assert set(wandb.views.keys) == {KEY}


def test_a_line_says_where_to_look(wandb: WandbServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", "--family", ONE]) == 0
    key = view_key(ONE, PLACE)[3:-2]
    assert capsys.readouterr().out == f"{ONE}: made {wandb.address}/{ENTITY}/{PROJECT}?nw={key}\n"


def test_what_was_changed_on_the_server_is_as_in_the_code_again(wandb: WandbServer) -> None:
    assert main(["push", "--family", ONE]) == 0
    (view,) = wandb.views.views
    view["spec"], view["displayName"] = "{}", "somebody's"
    assert main(["push", "--family", ONE]) == 0
    assert wandb.views.views == [view]
    assert view["spec"] == spec_of(workspace_of(ONE, PLACE))
    assert view["displayName"] == display_name(ONE)


def test_a_view_of_the_same_name_is_taken_over_wherever_it_stands_in_the_list(wandb: WandbServer) -> None:
    others = [{"id": f"{i}", "name": f"nw-{i}-v", "displayName": f"view {i}", "spec": "{}"} for i in range(250)]
    others[230]["displayName"] = display_name(ONE)
    wandb.views.views = [dict(view) for view in others]
    assert main(["push", "--family", ONE]) == 0
    assert wandb.views.views[230]["name"] == "nw-230-v"
    assert wandb.views.views[230]["spec"] == spec_of(workspace_of(ONE, PLACE))
    assert [view for i, view in enumerate(wandb.views.views) if i != 230] == others[:230] + others[231:]


def test_of_several_views_of_one_name_none_is_written(wandb: WandbServer, capsys: pytest.CaptureFixture[str]) -> None:
    twice = [{"id": f"{i}", "name": f"nw-{i}-v", "displayName": display_name(NIGHTLY), "spec": "{}"} for i in range(2)]
    wandb.views.views = twice
    assert main(["push"]) == 2
    assert "2 saved views called trainworks nightly; delete or rename all but one" in failure(capsys)
    assert "UpsertView" not in wandb.views.calls


def test_a_configuration_asks_for_its_family_and_names_the_project(wandb: WandbServer) -> None:
    assert main(["push", str(CONFIGS / "mnist.yaml"), f"wandb.entity={ENTITY}"]) == 0
    assert [view["displayName"] for view in wandb.views.views] == [display_name("image_classification")]


def test_a_suite_asks_for_its_families_and_the_overview(wandb: WandbServer) -> None:
    assert main(["push", str(CONFIGS / "nightly.yaml")]) == 0
    asked = ["causal_lm", "image_classification", "diffusion", NIGHTLY]
    assert [view["displayName"] for view in wandb.views.views] == [display_name(name) for name in asked]


def test_the_command_line_wins_over_the_configuration(wandb: WandbServer, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(CONFIGS / "mnist.yaml")
    assert main(["push", config, "wandb.entity=other", "--entity", ENTITY, "--family", ONE]) == 0
    assert [view["displayName"] for view in wandb.views.views] == [display_name(ONE)]
    capsys.readouterr()
    assert main(["push", config, "--project", "elsewhere"]) == 2
    assert f"shows this key no project {ENTITY}/elsewhere" in failure(capsys)


def test_without_a_key_nobody_is_asked(
    wandb: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "  ")
    assert main(["push"]) == 2
    assert "WANDB_API_KEY is not set" in failure(capsys)
    assert wandb.views.calls == []


@pytest.mark.parametrize(
    ("first", "rest", "code", "words"),
    [
        (401, "well", 2, "refuses the key (HTTP 401); set WANDB_API_KEY to one from"),
        (403, "well", 2, "refuses the key (HTTP 403)"),
        (400, "well", 2, "refuses: no: api:***; the key's account has to be allowed"),
        (500, "well", 1, "fails (HTTP 500); nothing more was saved: look at WANDB_BASE_URL, or try again later"),
        (429, "well", 1, "fails (HTTP 429)"),
        ("break", "well", 1, "broke the connection off"),
        ("page", "well", 2, "is no W&B server: HTTP 200 without JSON; look at WANDB_BASE_URL"),
        ("list", "well", 2, "is no W&B server"),
        ("redirect", "well", 2, "is no W&B server: HTTP 302"),
        ("well", 500, 1, "fails (HTTP 500)"),
        ("well", "redirect", 2, "is no W&B server: HTTP 302"),
    ],
)
def test_what_a_server_does_wrong_is_one_line(
    wandb: WandbServer,
    capsys: pytest.CaptureFixture[str],
    first: Mode | int,
    rest: Mode | int,
    code: int,
    words: str,
) -> None:
    wandb.views.first, wandb.views.rest = first, rest
    assert main(["push"]) == code
    assert words in failure(capsys)
    assert wandb.views.views == []
    assert "GET" not in wandb.views.calls
    assert len(wandb.views.calls) == (1 if rest == "well" else 2)


def test_a_refused_mutation_is_told_with_the_servers_words(
    wandb: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb.views.refusal = f"permission denied\nto {KEY}"
    assert main(["push"]) == 2
    assert "refuses: permission denied to ***; the key's account has to be allowed to write there" in failure(capsys)


def test_a_key_that_the_server_does_not_know_is_refused(
    wandb: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb.views, "answer", lambda query, given: {"data": {"viewer": None}})
    assert main(["push"]) == 2
    assert "refuses the key (it knows no account of it)" in failure(capsys)


def test_a_silent_server_is_left_after_three_seconds(wandb: WandbServer, capsys: pytest.CaptureFixture[str]) -> None:
    wandb.views.first = "hang"
    begun = time.monotonic()
    assert main(["push"]) == 1
    assert time.monotonic() - begun < 6
    assert "does not answer within 3 s" in failure(capsys)


@pytest.mark.parametrize("rest", ["hang", "trickle"])
def test_a_server_that_falls_silent_later_is_left_in_time(wandb: WandbServer, rest: Mode) -> None:
    wandb.views.rest = rest
    server = Server(wandb.address, KEY, call_s=0.3)
    assert server.default_entity() == ENTITY
    begun = time.monotonic()
    with pytest.raises(OutageError, match=r"does not answer within 0\.3 s"):
        push([ONE], server, PLACE)
    assert time.monotonic() - begun < 3


def test_a_name_that_is_looked_up_for_long_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def look_up(*arguments: object, **more: object) -> list[object]:
        answered.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(OutageError, match=r"does not answer within 0\.2 s"):
        Server("http://wandb.example", KEY, preflight_s=0.2).default_entity()
    answered.set()


def test_an_address_at_which_nobody_listens_is_told(
    wandb: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert main(["push"]) == 1
    assert "does not answer (" in failure(capsys)


@pytest.mark.parametrize("address", ["wandb.example", "file:///etc/passwd", "http://[", "http://wandb example"])
def test_what_is_no_address_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", address)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert main(["push"]) == 2
    assert "is no address" in failure(capsys)


def test_a_servers_key_does_not_show_in_its_record() -> None:
    assert KEY not in repr(Server("http://wandb.example", KEY))


def test_an_answer_without_a_view_is_a_refusal(wandb: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb.views, "_upsert", lambda given: {"data": {"upsertView": None}})
    with pytest.raises(UserError, match="did not save trainworks causal_lm in team/trainworks"):
        push([ONE], Server(wandb.address, KEY), PLACE)


def fields_of(query: str, start: str) -> set[str]:
    """The fields of an input or of a selection that begins with `start`."""
    found = re.search(re.escape(start) + r"\s*\{(.*?)\}", query, re.DOTALL)
    assert found
    return set(re.findall(r"(\w+)\s*:", found[1])) or set(found[1].split())


def test_the_calls_are_those_of_the_library() -> None:
    """Ours stay within what W&B's own programs send, which a server that is no stand-in understands."""
    library = Path(internal.__file__).read_text(encoding="utf-8")
    mutation = library[library.index("mutation UpsertView2") :]
    assert fields_of(UPSERT, "input:") == fields_of(mutation, "input:")
    assert "createdUsing: WANDB_SDK" in UPSERT
    assert Reports.QUERY
    listed = Reports.QUERY[Reports.QUERY.index("allViews(") :]
    assert set(re.findall(r"\w+", fields_text(VIEWS))) <= set(re.findall(r"\w+", listed))


def fields_text(query: str) -> str:
    """What a listing of views asks for, without the values that it gives."""
    return query[query.index("edges") :]
