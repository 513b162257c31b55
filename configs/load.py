"""Files, overlays and dotted overrides to one RunConfig; a single error lists every problem."""

import difflib
import json
import re
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import ConfigError
from configs.presets import expand
from configs.schema import Config, RunConfig

Location = tuple[str, ...]
Tree = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """YAML as JSON can hold it: 1e-3 is a float, which PyYAML reads as text, and 2024-01-01 is text, not a date."""

    yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML's own table
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back: text such as "1e-3" is quoted, and text of several lines stays on one."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$"), list("-+0123456789.")
    )
_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None),
)


def load(arguments: Sequence[str]) -> RunConfig:
    """The run that CONFIG.yaml [OVERLAY.yaml ...] [key.path=value ...] describe, later ones over earlier ones.

    Raises ConfigError with every unknown key, wrong type and broken rule at once.
    """
    tree: Tree = {}
    origins: dict[Location, str] = {}
    problems: list[str] = []
    overrides = [re.match(r"^([^\s=/.]+(?:\.[^\s=/.]+)*)=(.*)$", argument, re.DOTALL) for argument in arguments]
    for argument, override in zip(arguments, overrides, strict=True):
        if override:
            layer, places = _parse_override(override[1], override[2], argument, problems)
        else:
            layer, places = _parse_file(Path(argument), problems)
        _lay_over(tree, layer)
        origins |= places
    if all(overrides):
        problems.append("no configuration file: name one, such as configs/demo-lm.yaml")
    if problems:
        raise _error(problems)
    return validate(tree, origins)


def validate(tree: Tree, origins: Mapping[Location, str] | None = None) -> RunConfig:
    """A parsed configuration as a RunConfig; `origins` says where each key was written."""
    tree = expand(tree)
    try:
        return RunConfig.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        details = [each for each in error.errors() if not _echo(each)]
        problems = [_describe(detail, tree, origins or {}) for detail in details]
        faulty = {_plain_location(each["loc"], tree) for each in error.errors() if each["type"] != "value_error"}
        for location, problem in _broken_rules(RunConfig, tree, faulty):
            if not any(problem in known for known in problems):
                problems.append(_place((*location, ""), origins or {}) + problem)
        raise _error(problems) from None
    except (TypeError, ValueError) as error:  # json: dates and the like
        raise ConfigError(f"configuration: {error}") from None


def read(path: Path) -> RunConfig:
    """A run that `write` saved."""
    return load([str(path)])


def dump(run: RunConfig) -> str:
    """The resolved run as YAML that `read` gives back."""
    return yaml.dump(run.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def differences(ours: Any, theirs: Any, prefix: str = "") -> Iterator[str]:
    """The keys in which two dumped configurations differ, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in (*ours, *(k for k in theirs if k not in ours)):
            yield from differences(ours.get(key), theirs.get(key), f"{prefix}.{key}" if prefix else key)
    elif ours != theirs:
        yield f"{prefix}: {ours!r} here, {theirs!r} there"


def explain(run: RunConfig) -> str:
    """The resolved run as YAML, each field with its meaning and unit, and the derived numbers."""
    lines = list(_explain(run, 0))
    world, train = run.world, run.train
    tokens = train.global_batch_samples * getattr(run.data, "block_tokens", 0)  # images have none
    accumulation = "auto" if world.micro_batch_samples == "auto" else run.accumulation
    lines += [
        "# derived",
        *([f"#   tokens per step: {tokens:,}; tokens in all: {tokens * train.steps:,}"] if tokens else []),
        f"#   ranks: {world.processes} x {world.micro_batch_samples} samples x {accumulation} accumulation",
    ]
    return "\n".join(lines) + "\n"


def _explain(config: BaseModel, depth: int) -> Iterator[str]:
    for name, field in type(config).model_fields.items():
        value, pad = getattr(config, name), "  " * depth
        if isinstance(value, BaseModel):
            yield f"{pad}{name}:" + (f"  # {_first_line(type(value).__doc__)}" if type(value).__doc__ else "")
            yield from _explain(value, depth + 1)
        else:
            plain = config.model_dump(mode="json", include={name})[name]
            text = yaml.dump(plain, Dumper=_Dumper, default_flow_style=True, width=10**6, allow_unicode=True)
            text = text.removesuffix("\n...\n")
            yield f"{pad}{name}: {text.strip()}" + (
                f"  # {_first_line(field.description)}" if field.description else ""
            )


def _first_line(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def _parse_override(path: str, text: str, argument: str, problems: list[str]) -> tuple[Tree, dict[Location, str]]:
    location = tuple(path.split("."))
    places = {location: "command line"}
    try:
        value = _construct(text, location, lambda line: "command line", places, problems)
    except (yaml.YAMLError, RecursionError) as error:
        problems.append(f"{argument}: the value is not YAML ({str(error).splitlines()[0]}); quote it")
        return {}, {}
    for key in reversed(location):
        value = {key: value}
    return value, places


def _parse_file(path: Path, problems: list[str]) -> tuple[Tree, dict[Location, str]]:
    places: dict[Location, str] = {}
    try:
        tree = _construct(path.read_text(encoding="utf-8"), (), lambda line: f"{path}:{line}", places, problems)
    except OSError as error:
        hint = _nearest_file(path) if isinstance(error, FileNotFoundError) else ""
        problems.append(f"{path}: cannot be read: {error.strerror}{hint}")
        return {}, {}
    except UnicodeDecodeError as error:
        problems.append(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8")
        return {}, {}
    except (yaml.YAMLError, RecursionError) as error:
        problems.append(f"{path}: not YAML: {' '.join(str(error).split())}")
        return {}, {}
    if not isinstance(tree, dict):
        got = "nothing" if tree is None else type(tree).__name__
        problems.append(f"{path}: expected keys and values at the top, got {got}")
        return {}, {}
    return tree, places


def _construct(
    text: str, root: Location, place: Callable[[int], str], places: dict[Location, str], problems: list[str]
) -> Any:
    """The value that YAML text holds; notes in `places` where each key is set, in `problems` those set twice."""
    loader = _Loader(text)
    node = loader.get_single_node()

    def walk(node: yaml.Node | None, location: Location) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            here, at = (*location, str(key.value)), place(key.start_mark.line + 1)
            if here in places:
                problems.append(f"{at}: {'.'.join(here)} is set twice; first at {places[here]}")
            places[here] = at
            walk(value, here)

    walk(node, root)
    return None if node is None else loader.construct_document(node)


def _nearest_file(path: Path) -> str:
    names = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _lay_over(base: Tree, layer: Tree) -> None:
    for key, value in layer.items():
        old = base.get(key)
        if not isinstance(value, dict):
            base[key] = value
            continue
        if not isinstance(old, dict) or value.get("kind", old.get("kind")) != old.get("kind"):
            base[key] = {}  # not `value` itself: YAML aliases share it
        _lay_over(base[key], value)


def _error(problems: list[str]) -> ConfigError:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ConfigError(f"the configuration has {count}:\n" + "\n".join(f"  - {p}" for p in problems))


def _echo(detail: Any) -> bool:
    """A list too short because its faulty items, each reported itself, were not counted."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def _place(location: Location, origins: Mapping[Location, str], name: str | None = None) -> str:
    known = next((origins[location[:n]] for n in range(len(location), 0, -1) if location[:n] in origins), None)
    name = name or ".".join(part for part in location if part)
    return f"{known}: {name}: " if known and name else f"{name}: " if name else ""


def _describe(detail: Any, tree: Tree, origins: Mapping[Location, str]) -> str:
    location, kind, got = _plain_location(detail["loc"], tree), detail["type"], detail["input"]
    if kind == "union_tag_invalid":
        location = (*location, "kind")
    place = _place(location, origins)
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{place}unknown key" + _did_you_mean(location, tree)
    if kind == "missing":  # of an earlier `kind` the same key may have been set
        return _place(location[:-1], origins, ".".join(location)) + "required, but not set"
    if kind in ("union_tag_invalid", "literal_error"):
        allowed = context.get("expected_tags") or context.get("expected")
        value = got.get("kind") if isinstance(got, dict) else got
        near = difflib.get_close_matches(str(value), re.findall(r"'([^']*)'", str(allowed)), n=1)
        return f"{place}{value!r} is not one of {allowed}" + (f"; did you mean {near[0]!r}?" if near else "")
    if kind == "union_tag_not_found":
        return f"{place}its `kind` is not set"
    if kind == "value_error":
        return place + str(context["error"])
    shown = repr(got) if len(repr(got)) < 80 else repr(got)[:77] + "..."
    return f"{place}{detail['msg'][0].lower()}{detail['msg'][1:]}, got {shown}"


def _plain_location(location: tuple[Any, ...], tree: Any) -> Location:
    """Without the union tags that pydantic puts between keys."""
    plain: list[str] = []
    tagged = False
    for part in location:
        if not tagged and isinstance(tree, dict) and tree.get("kind") == part:
            tagged = True  # a section may have a key of the same name, which comes after the tag
            continue
        plain.append(str(part))
        if isinstance(tree, list):
            tree = tree[part] if isinstance(part, int) and part < len(tree) else None
        else:
            tree = tree.get(part) if isinstance(tree, dict) else None
        tagged = False
    return tuple(plain)


def _did_you_mean(location: Location, tree: Tree) -> str:
    *parents, key = location
    owner, here = _class_at(RunConfig, tree, parents)
    siblings = list(owner.model_fields) if owner else []
    if near := difflib.get_close_matches(key, siblings, n=1):
        return f"; did you mean {'.'.join((*parents, near[0]))}?"
    elsewhere = {path.rsplit(".", 1)[-1]: path for path in reversed(list(_paths(RunConfig)))}
    if near := difflib.get_close_matches(key, list(elsewhere), n=1, cutoff=0.75):
        return f"; did you mean {elsewhere[near[0]]}?"
    return f"; allowed here: {', '.join(siblings)}" if here is not None else ""


def _class_at(owner: type[Config] | None, tree: Any, keys: Sequence[str]) -> tuple[type[Config] | None, Any]:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
        field = owner.model_fields.get(key) if owner else None
        owner = _member(field.annotation, tree) if field else None
    return owner, tree


def _paths(owner: type[Config], prefix: str = "") -> Iterator[str]:
    for name, field in owner.model_fields.items():
        yield prefix + name
        for member in _members(field.annotation):
            yield from _paths(member, f"{prefix}{name}.")


def _members(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for argument in get_args(annotation) for member in _members(argument)]
    return _members(get_args(annotation)[0]) if hasattr(annotation, "__metadata__") else []


def _member(annotation: Any, tree: Any) -> type[Config] | None:
    members = _members(annotation)
    if len(members) < 2:
        return members[0] if members else None
    kind = tree.get("kind") if isinstance(tree, dict) else None
    return next((m for m in members if kind in get_args(m.model_fields["kind"].annotation)), None)


def _broken_rules(
    owner: type[Config], tree: Any, faulty: Collection[Location], location: Location = ()
) -> Iterator[tuple[Location, str]]:
    """The rules between fields that sound parts of a faulty configuration break."""
    loose = _loose(owner, tree, faulty, location)
    for rule in owner.rules:
        try:
            problem = rule(loose)
        except (AttributeError, TypeError):
            continue  # a field it needs is itself faulty, and reported
        if problem:
            yield location, problem
    for name, field in owner.model_fields.items():
        value = tree.get(name) if isinstance(tree, dict) else None
        if isinstance(value, dict) and (member := _member(field.annotation, value)):
            yield from _broken_rules(member, value, faulty, (*location, name))


def _loose(owner: type[Config], tree: Any, faulty: Collection[Location], location: Location) -> types.SimpleNamespace:
    """The sound fields of a faulty configuration, with defaults for those not given."""
    fields: Tree = {}
    for name, field in owner.model_fields.items():
        here = (*location, name)
        if here in faulty:
            continue
        if isinstance(tree, dict) and name in tree:
            value = tree[name]
            member = _member(field.annotation, value) if isinstance(value, dict) else None
            fields[name] = _loose(member, value, faulty, here) if member else value
        elif not field.is_required():
            fields[name] = field.get_default(call_default_factory=True)
    return types.SimpleNamespace(**fields)
