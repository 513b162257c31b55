"""A field that nobody reads is a promise that nobody keeps."""

import ast
import inspect
from functools import cache
from pathlib import Path

import pytest

from configs import dataset, diffusion, language, optimisation, schema, suite, vision
from configs.dataset import Config

ROOT = Path(__file__).parent.parent.parent
CONFIGS = (schema, dataset, language, vision, diffusion, optimisation, suite)
ROOMS = ("configs", "data", "trainer", "pipelines", "k8s")


def reads(node: ast.AST) -> set[str]:
    """Names of all attributes that are read somewhere below a node."""
    return {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Load)}


@cache
def read_outside() -> frozenset[str]:
    """What code outside of the schema reads."""
    own = [module.__file__ for module in CONFIGS]
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if str(path) not in own]
    return frozenset().union(*(reads(ast.parse(path.read_text(encoding="utf-8"))) for path in paths))


def classes() -> list[type[Config]]:
    every = {each for module in CONFIGS for _, each in inspect.getmembers(module, inspect.isclass)}
    found = {each for each in every if issubclass(each, Config)}
    return sorted((each for each in found if each.model_fields), key=lambda each: each.__name__)


def properties(owner: type[Config]) -> dict[str, ast.AST]:
    """A class's derived values, inherited ones too, and what they are made from."""
    sources = [inspect.getsource(each) for each in owner.__mro__ if issubclass(each, Config)]
    return {
        node.name: node
        for source in sources
        for node in ast.walk(ast.parse(source.lstrip()))
        if isinstance(node, ast.FunctionDef) and any(getattr(d, "id", None) == "property" for d in node.decorator_list)
    }


@pytest.mark.parametrize("owner", classes(), ids=lambda owner: owner.__name__)
def test_every_field_is_read_by_somebody(owner: type[Config]):
    known = read_outside()
    for name, body in properties(owner).items():
        assert name in known, f"nobody reads the property {owner.__name__}.{name}"
        known |= frozenset(reads(body))
    known |= {"preset"}  # it is spelled out before there is a class: tests/unit/test_presets.py
    assert [name for name in owner.model_fields if name not in known] == []


@pytest.mark.parametrize("owner", classes(), ids=lambda owner: owner.__name__)
def test_every_field_says_what_it_means(owner: type[Config]):
    """`kind` and sections are explained by the classes that they choose."""
    sections = {each.__name__ for each in classes()}
    silent = {name: str(field.annotation) for name, field in owner.model_fields.items() if not field.description}
    plain = [name for name, kind in silent.items() if not any(section in kind for section in sections)]
    assert [name for name in plain if name != "kind"] == []
