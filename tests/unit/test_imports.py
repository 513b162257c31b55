"""Imports go down the list only (architecture, rules 1 and 2)."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("configs", "data", "trainer", "pipelines", "k8s")
MAY_IMPORT = {
    "configs": {"configs"},
    "data": {"configs", "data"},
    "trainer": {"configs", "data", "trainer"},
    "pipelines": {"configs", "pipelines", "k8s"},
    "k8s": {"configs", "k8s"},
}
STANDARD = sys.stdlib_module_names


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; of `from a import b` both `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, folder
    return found


def offences(folder: str, allowed: set[str]) -> list[str]:
    """Imports of a folder's files that are neither of the standard library nor allowed, by their first name."""
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(folder)
        for name in imports(path)
        if name.split(".")[0] not in STANDARD | allowed
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_is_below_it(room: str):
    strangers = set(ROOMS) - MAY_IMPORT[room]
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(room)
        for name in imports(path)
        if name.split(".")[0] in strangers
    ]
    assert found == []


def test_configs_need_pydantic_and_yaml_and_for_events_orjson_alone():
    assert offences("configs", {"configs", "pydantic", "pydantic_core", "yaml", "orjson"}) == []
    assert [path.name for path in files("configs") if "orjson" in imports(path)] == ["events.py"]


def test_in_data_only_the_loader_knows_torch():
    found = {path.name for path in files("data") for name in imports(path) if name.split(".")[0] == "torch"}
    assert found == {"loader.py"}


def test_models_import_torch_alone():
    assert [each for each in offences("trainer/models", {"torch"}) if "imports trainer.models." not in each] == []


def test_tasks_know_no_deepspeed_ranks_files_or_tracker():
    unknown = ("deepspeed", "wandb", "torch.distributed", "trainer.distributed", "trainer.engines", "trainer.tracker",
               "trainer.checkpoint", "trainer.loop", "os", "pathlib", "configs.folder")  # fmt: skip
    found = [
        f"{path.name} imports {name}"
        for path in files("trainer/tasks")
        for name in imports(path)
        if any(name == each or name.startswith(f"{each}.") for each in unknown)
    ]
    assert found == []


def test_the_loop_knows_no_family():
    found = [
        name for name in imports(ROOT / "trainer" / "loop.py") if name.startswith(("trainer.tasks", "trainer.models"))
    ]
    assert found == []


def test_no_room_imports_the_tests_or_benchmarks():
    found = [name for room in ROOMS for path in files(room) for name in imports(path)]
    assert [name for name in found if name.split(".")[0] in ("tests", "benchmarks")] == []


@pytest.mark.parametrize("user", ["pipelines", "k8s"])
def test_private_names_stay_in_their_room(user: str):
    """pipelines and k8s import public names of others."""
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(user)
        for name in imports(path)
        if name.split(".")[0] in ROOMS and any(part.startswith("_") for part in name.split(".")[1:])
    ]
    assert found == []


def test_no_module_has_a_name_that_says_nothing():
    names = {path.name for room in ROOMS for path in files(room)}
    assert names & {"utils.py", "common.py", "base.py", "helpers.py", "misc.py"} == set()
