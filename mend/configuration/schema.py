"""Checking a configuration against its JSON schema, in words that a person can act on."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from mend.errors import UserError

SCHEMA = Path(__file__).parents[2] / "workflow/schemas/configuration.schema.json"

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


def check_schema(values: Mapping[str, Any], files: Sequence[str | Path] = ()) -> None:
    """Raise UserError listing everything in a configuration that its schema does not allow.

    files: the configuration files in the order in which they were merged, to name where a key
    comes from; a value that none of them holds came from --config.
    """
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    contents = [(str(file), _read_yaml(file)) for file in files]
    errors = Draft202012Validator(schema).iter_errors(_with_text_keys(values))
    lines = []
    for error in sorted(errors, key=lambda error: [str(part) for part in error.absolute_path]):
        for path, problem in _problems(error, schema):
            lines.append(f"{_origin(path, values, contents)}: {_dotted(path)}: {problem}")
    if lines:
        raise UserError("\n".join(lines))


def check_settings(settings: Mapping[str, Any], place: Sequence[str]) -> None:
    """Raise UserError for settings of a run that the schema does not allow; place: their key."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    rule = {"$ref": "#/$defs/settings", "$defs": schema["$defs"]}
    for error in Draft202012Validator(rule).iter_errors(_with_text_keys(settings, tuple(place))):
        for path, problem in _problems(error, schema):
            raise UserError(f"{_dotted([*place, *path])}: {problem}")


def closest(name: str, names: Iterable[str]) -> str:
    """Return " (did you mean ...?)" for the name most like `name`, or nothing."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _problems(error: ValidationError, schema: Mapping[str, Any]) -> list[tuple[list[Any], str]]:
    """Return (place, what is wrong and what is allowed) for one error of the validator."""
    path, given, rule = list(error.absolute_path), error.instance, error.schema
    if error.validator == "additionalProperties":
        if "patternProperties" in rule:
            pattern = re.compile(next(iter(rule["patternProperties"])))
            message = (
                "a name may hold letters, digits, dots, _ and -, and begins with none of these"
            )
            return [([*path, key], message) for key in given if not pattern.search(key)]
        known = rule["properties"]
        return [
            ([*path, key], f"unknown key{closest(key, known)}; keys here: {', '.join(known)}")
            for key in given
            if key not in known
        ]
    if error.validator == "required":
        # The validator reports each missing key by an error of its own.
        key = next(key for key in error.validator_value if error.message.startswith(f"'{key}' "))
        described = rule.get("properties", {}).get(key, {})
        if "$ref" in described:
            described = schema["$defs"][described["$ref"].rpartition("/")[2]]
        text = described.get("description")
        return [([*path, key], "missing" + (f": {text}" if text else ""))]
    if error.validator == "type":
        return [(path, f"{_shown(given)} is not {_allowed(rule)}{_hint(given, rule)}")]
    if error.validator == "enum":
        choices = ", ".join(map(str, error.validator_value))
        near = closest(given, map(str, error.validator_value)) if isinstance(given, str) else ""
        return [(path, f"{_shown(given)} is not one of: {choices}{near}")]
    if error.validator in ("minItems", "minLength", "minProperties"):
        return [(path, "must not be empty" if not given else f"{_shown(given)} is too short")]
    if error.validator == "uniqueItems":
        return [(path, f"{_shown(given)} holds something twice")]
    return [(path, f"{_shown(given)} is not allowed: {_allowed(rule)}")]


def _allowed(rule: Mapping[str, Any]) -> str:
    kinds = rule["type"] if isinstance(rule.get("type"), list) else [rule.get("type")]
    words = " or ".join(_KINDS.get(kind, str(kind)) for kind in kinds)
    limits = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
        "maxItems": "entries at most",
    }
    bounds = [f"{word} {rule[key]}" for key, word in limits.items() if key in rule]
    return ", ".join([words, *bounds])


def _hint(given: Any, rule: Mapping[str, Any]) -> str:
    """Say how to write what was probably meant, where text stands for something else."""
    kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    if not isinstance(given, str):
        return ""
    if {"array", "object"} & set(kinds):
        return "; lists and mappings belong into a configuration file: --config passes text"
    try:
        number = float(given)
    except ValueError:
        return ""
    if "e" in given.lower() and "." not in given:
        digits, exponent = given.lower().split("e")
        return f"; YAML reads {given} as text: write {digits}.0e{exponent}"
    if {"integer", "number"} & set(kinds):
        return f"; write {number:g} without quotes, and not within a list given with --config"
    return ""


def _with_text_keys(values: Any, path: tuple = ()) -> Any:
    """Return the values as they are; raises UserError for a key that is not text."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if not isinstance(key, str):
                raise UserError(f"{_dotted([*path, key])}: the key {key!r} must be text: quote it")
            _with_text_keys(value, (*path, key))
    return values


def _origin(path: Sequence[Any], values: Any, contents: Sequence[tuple[str, Any]]) -> str:
    """Return the last file that holds the value at `path`, or its parent if it is missing."""
    given = _get(values, path)
    while path and given is _ABSENT:
        path = path[:-1]
        given = next((found for _, held in contents if (found := _get(held, path))), _ABSENT)
    for file, held in reversed(contents):
        if _get(held, path) == given:
            return file
    return "--config" if contents else "configuration"


def _get(values: Any, path: Sequence[Any]) -> Any:
    for part in path:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return _ABSENT
    return values


def _dotted(path: Sequence[Any]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "the whole configuration"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_yaml(file: str | Path) -> Any:
    with open(file, encoding="utf-8") as stream:
        return yaml.safe_load(stream)
