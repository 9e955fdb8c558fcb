"""What is wrong with a configuration, in words that a person can act on."""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from mend.configuration.files import read_yaml
from mend.configuration.methods import method_names
from mend.configuration.schema import NAME, run_settings
from mend.configuration.words import closest, cut, listed
from mend.errors import UserError

_ABSENT = object()

_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping of keys",
    "null": "null",
}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "maxItems": "entries at most",
}
_NAMES = (
    "a name may hold letters, digits, dots, _ and -, begins with a letter or digit, and is not long"
)
LONGEST_LINE, MOST_LINES = 400, 20

Path = Sequence[Any]


def validated(kind: type[BaseModel], values: Mapping[str, Any], files: Iterable[Any] = ()) -> Any:
    """Return values as an object of a type.

    files: the configuration files in the order in which they were merged, to name where a key
    comes from; a value that none of them holds came from --config.
    Raises UserError listing everything that the type does not allow.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = problems(kind, error)
    raise UserError("\n".join(located(found, values, files)))


def located(
    found: Iterable[tuple[Path, str]], values: Mapping[str, Any], files: Iterable[Any]
) -> list[str]:
    """Return problems as lines, each with the file that its place is in and its key."""
    contents = [(str(file), _read_yaml(file)) for file in files]
    return [
        f"{_origin(path, values, contents)}: {dotted(path)}: {problem}" for path, problem in found
    ]


def readable(lines: Iterable[str]) -> str:
    """Return lines as a message that a person can read: none too long, and not too many."""
    lines = [cut(line, LONGEST_LINE) for line in lines]
    if (more := len(lines) - MOST_LINES) > 0:
        lines[MOST_LINES:] = [f"and {more:,} more of this kind"]
    return "\n".join(lines)


def setting_problems(settings: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with settings of a run, each with its key."""
    kind = run_settings()
    try:
        kind.model_validate(settings)
    except ValidationError as error:
        return [f"{dotted(path)}: {text}" for path, text in problems(kind, error)]
    return []


def problems(kind: type[BaseModel], error: ValidationError) -> list[tuple[list[Any], str]]:
    """Return (place, what is wrong and what is allowed) for each thing that is wrong."""
    found: dict[str, tuple[list[Any], str]] = {}
    for one in error.errors():
        place = [part for part in one["loc"] if part != "[key]"]
        rule = _annotation(kind, place)
        if rule is _ABSENT and one["type"] not in ("extra_forbidden",):
            # A member of a union, which is told as a whole.
            place = place[:-1]
            rule = _annotation(kind, place)
        found.setdefault(dotted(place), (place, _problem(kind, place, rule, one)))
    return [found[key] for key in sorted(found)]


def dotted(path: Path) -> str:
    """Return a place such as `benchmark.seeds[0]`."""
    text = "".join(
        f"[{part}]" if isinstance(part, int) else f".{cut(str(part), 60)}" for part in path
    )
    text = " ".join(text.split())
    return text.lstrip(".") or "the whole configuration"


def _problem(kind: type[BaseModel], place: list[Any], rule: Any, error: Mapping[str, Any]) -> str:
    given, name = error["input"], error["type"]
    if name == "extra_forbidden":
        if len(place) == 2 and place[0] == "methods":
            if not re.fullmatch(NAME, place[1]):
                return _NAMES
            known = method_names()
            return f"no such method{closest(place[1], known)}; mend/methods/ has {listed(known)}"
        known = _keys(_annotation(kind, place[:-1]))
        return f"unknown key{closest(str(place[-1]), known)}; keys here: {listed(known)}"
    if name == "missing":
        field = _field(kind, place)
        return "missing" + (f": {field.description}" if field and field.description else "")
    if name == "string_pattern_mismatch":
        return f"{_shown(given)} is not allowed: letters, digits, dots, /, _ and - alone"
    if name == "invalid_key" or (name == "string_type" and error["loc"][-1] == "[key]"):
        return f"the key {given!r} must be text: quote it"
    if error["loc"][-1] == "[key]":
        known = _choices(get_args(_bare(_annotation(kind, place[:-1])))[0])
        return f"not one of: {listed(known)}{closest(place[-1], known)}" if known else _NAMES
    if name in ("too_short", "string_too_short"):
        return "must not be empty" if not given else f"{_shown(given)} is too short"
    if name == "value_error":
        return f"{_shown(given)} is not allowed: {error['ctx']['error']}"
    if choices := _choices(rule):
        near = closest(given, choices) if isinstance(given, str) else ""
        return f"{_shown(given)} is not one of: {listed(choices)}{near}"
    schema = _json_schema(rule)
    if name.endswith("_type") or name in ("int_from_float", "finite_number"):
        return f"{_shown(given)} is not {_allowed(schema)}{_hint(given, schema)}"
    return f"{_shown(given)} is not allowed: {_allowed(schema)}"


def _annotation(kind: Any, place: Path) -> Any:
    """Return the type of the value at a place; _ABSENT if the type has no such place."""
    for part in place:
        kind = _bare(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = _field_named(kind, part)
            if field is None:
                return _ABSENT
            kind = field.rebuild_annotation()
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif get_origin(kind) is list and isinstance(part, int):
            kind = get_args(kind)[0]
        else:
            return _ABSENT
    return kind


def _bare(kind: Any) -> Any:
    """Return a type without its annotations, and without None."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        members = [member for member in get_args(kind) if member is not type(None)]
        return _bare(members[0]) if len(members) == 1 else kind
    return kind


def _field(kind: Any, place: Path) -> FieldInfo | None:
    owner = _bare(_annotation(kind, place[:-1]))
    return _field_named(owner, place[-1]) if hasattr(owner, "model_fields") else None


def _field_named(kind: type[BaseModel], name: Any) -> FieldInfo | None:
    fields = kind.model_fields.items()
    return next((field for key, field in fields if name in (field.alias or key,)), None)


def _keys(kind: Any) -> list[str]:
    kind = _bare(kind)
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return []
    return [field.alias or key for key, field in kind.model_fields.items()]


def _choices(kind: Any) -> list[str]:
    """Return the names that a type allows, if it allows some names alone."""
    kind = _bare(kind)
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    if get_origin(kind) in (Union, types.UnionType):
        members = [_choices(member) for member in get_args(kind) if member is not type(None)]
        return [name for names in members for name in names] if all(members) else []
    return []


def _json_schema(kind: Any) -> dict[str, Any]:
    """Return what a JSON schema says of a type: its kinds and its bounds."""
    schema = TypeAdapter(kind).json_schema()
    members = schema.get("anyOf", [schema])
    if "$ref" in members[0]:
        members = [{"type": "object"}, *members[1:]]
    kinds = [name for member in members for name in _as_list(member.get("type", "object"))]
    return {**members[0], "type": kinds}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _allowed(schema: Mapping[str, Any]) -> str:
    words = " or ".join(_KINDS.get(kind, str(kind)) for kind in schema["type"])
    bounds = [f"{word} {_number(schema[key])}" for key, word in _LIMITS.items() if key in schema]
    return ", ".join([words, *bounds])


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else repr(value)


def _hint(given: Any, schema: Mapping[str, Any]) -> str:
    """Say how to write what was probably meant, where text stands for something else."""
    kinds = set(schema["type"])
    if isinstance(given, float) and given.is_integer() and "integer" in kinds:
        return f"; write {given:.0f}"
    if not isinstance(given, str):
        return ""
    if {"array", "object"} & kinds:
        return "; lists and mappings belong into a configuration file: --config passes text"
    try:
        number = float(given)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    if "integer" in kinds:
        if not number.is_integer():
            return ""
        return f"; write {number:.0f} without quotes"
    if "e" in given.lower() and "." not in given:
        digits, exponent = given.lower().split("e")
        return f"; YAML reads {given} as text: write {digits}.0e{exponent}"
    if "number" in kinds:
        return f"; write {given.strip()} without quotes"
    return ""


def _origin(path: Path, values: Any, contents: Sequence[tuple[str, Any]]) -> str:
    """Return the last file that holds the value at `path`, or its parent if it is missing."""
    given = _get(values, path)
    while path and given is _ABSENT:
        path = path[:-1]
        given = next((found for _, held in contents if (found := _get(held, path))), _ABSENT)
    for file, held in reversed(contents):
        if repr(_get(held, path)) == repr(given):  # nan is not equal to itself
            return file
    return "--config" if contents else "configuration"


def _get(values: Any, path: Path) -> Any:
    for part in path:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return _ABSENT
    return values


def _shown(value: Any) -> str:
    return cut(json.dumps(value, ensure_ascii=False, default=str), 60)


def _read_yaml(file: Any) -> Any:
    try:
        return read_yaml(file)
    except UserError:
        return None  # where a key comes from is told as far as it can be
