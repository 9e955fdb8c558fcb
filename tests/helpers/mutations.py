"""Configurations with something changed, by the configuration's own types."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from mend.configuration.schema import json_schema

NAN, INFINITY = float("nan"), float("inf")
NUMBERS = (
    *(
        0,
        1,
        -1,
        2,
        4,
        16,
        17,
        257,
        2**31,
        2**32 - 1,
        2**32,
        2**63,
        2**64,
        10**12,
        -(2**63),
        10**400,
    ),
    *(4.0, 1.5, 0.5, -0.5, 0.0, -0.0, 1.0e6, 1.0e300, 5e-324, 0.6666667, 0.66666671, 1.0000001e-5),
    *(NAN, INFINITY, -INFINITY),
)


def _words(*lines: str) -> list[str]:
    return [word for line in lines for word in line.split()]


TEXTS = (
    *("", " ", "\n", "a\n", "a\nb", "\t", "a\0b", "\x1b[31m", "\ud800", "\u202e", "a b", "'; id"),
    *("x" * 300, "x" * 200_000, "x/" * 3000, "$(touch hacked)", "é 日本語", "Vanilla ICL", "MEND"),
    *_words(
        'x A 1 4.0 1e6 none null true yes no nan default all -r --help {x} a{x}b { } * [a " # %',
        ". .. ../.. ../out a/../b ./a a/ ~ ~/out ~root a/~ / // a//b a,b a=b a~b a:b length=4",
        "/etc/passwd /dev/zero /dev/null /proc/self/mem /no/such a/b/c a--b/c a/b.git -a/b a@b/c",
        "mend/data fifo unreadable empty folder list.csv big loop rows gpt2 openai-community/gpt2",
    ),
)
NAMES = _words(
    "mend zero-shot vanilla-icl prompt-tuning hypertuning pocket-gpt2 pocket-t5 local-gpt2",
    "gpt2-large gpt2-xl pocket-gpt2-tiny-distiller class_to_class qa_to_qa hr_to_lr run llm",
    "table1 table2 table3 figure3 report plan shots length beta data runs logs local-models",
    "pocket-models efficiency attention benchmarks newline sentence training.seed template",
    "pretrain.beta finetune.learning_rate finetune.losses.distill pretrain finetune mean",
    "selection longest_context group perturbation a.spec a.png results pocket hub bm25 dense",
    "pool no-label wrong-label metaicl paper authors-code results/local-models/gpt2",
    "mend/pocket/models/gpt2 mend/pocket/models/gpt2-small mend/pocket/models/t5",
)
LISTS: tuple[Any, ...] = (
    *([], [[]], [[1, 2], [3, 4]], [None], [True], [NAN], [1, 1], [1, 1.0], [1, "1"], [{}], [0]),
    *({}, {"": 1}, {"a": {}}, {"a": {"length": 4}}, {1: 2}, {None: 1}, {True: 1}, {"length": 4}),
    *(["mend"], ["zero-shot"], ["class_to_class"], ["x"] * 2000, list(range(3000)), [[[[[[1]]]]]]),
    *({"x": {"shots": 4}, "y": {}}, {"rows_per_task": 1}, {"llm": 5, "distiller": 5}),
    {"rows_per_task": 4, "seed": 7, "partition": "hr_to_lr"},
    {"finetune": {"losses": {"pred": 1.0}}},
    {"pretrain": {"losses": {"distill": 1.0}}},
    {"pretrain": {"steps": 10**9, "batch_size": 10**9}},
    {"method": "mend", "length": 4},
    {"llms": ["pocket-gpt2"], "methods": ["mend"], "partitions": ["class_to_class"]},
    {
        "llms": ["pocket-gpt2"],
        "methods": ["mend", "vanilla-icl"],
        "partitions": ["class_to_class"],
        "vary": {
            "shots": list(range(1, 17)),
            "length": list(range(1, 300)),
            "training.seed": [0, 1],
        },
    },
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from(NAMES),
    st.sampled_from(LISTS),
    st.integers(-5, 400),
    st.floats(allow_nan=True, width=64),
    st.text(max_size=12),
)
OPERATIONS = _words(
    "replace replace replace typed typed typed remove name rename case swap add wrap extend"
)


@st.composite
def mutated(draw, bases: dict[str, dict]) -> tuple[str, dict]:
    """Draw a configuration's name and its content with one to three changes at any depth."""
    name = draw(st.sampled_from(sorted(bases)))
    values = copy.deepcopy(bases[name])
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        _change(draw, values)
    return name, values


def _change(draw, values: dict) -> None:
    places = [*_places(values, ())]
    # Sections first, so that long studies do not get most of the changes.
    section = draw(st.sampled_from(sorted({str(place[0]) for place in places})))
    places = [place for place in places if str(place[0]) == section]
    place = draw(st.sampled_from(places))
    parent, last = _at(values, place[:-1]), place[-1]
    operation = draw(st.sampled_from(OPERATIONS))
    if operation == "replace":
        parent[last] = _value(draw)
    elif operation == "remove":
        del parent[last]
    elif operation == "name":
        parent[last] = draw(st.sampled_from(NAMES))
    elif operation in ("rename", "case") and isinstance(parent, dict):
        new = (
            str(last).swapcase() if operation == "case" else draw(st.sampled_from((*TEXTS, *NAMES)))
        )
        value = parent[last]
        if draw(st.booleans()):
            del parent[last]
        parent[new] = copy.deepcopy(value)
    elif operation == "swap":
        other = draw(st.sampled_from(places))
        found = copy.deepcopy(_at(values, other))
        parent[last] = found
    elif operation == "wrap":
        value = parent[last]
        parent[last] = draw(st.sampled_from(([value], {"a": value}, [value, value], str(value))))
    elif operation == "extend" and isinstance(parent, list):
        parent.append(_value(draw))
    elif operation == "add" and isinstance(parent, dict):
        parent[draw(st.sampled_from((*TEXTS, *NAMES)))] = _value(draw)
    else:
        _typed(draw, values, place)


def _typed(draw, values: dict, place: tuple) -> None:
    """Set a key that the types know, at or beside a place, to what its type allows."""
    schema = json_schema()
    parent = _at(values, place[:-1])
    rules = [rule for rule in _rules(schema, schema, place[:-1]) if rule.get("properties")]
    if isinstance(parent, dict) and rules:
        key = draw(st.sampled_from(sorted(rules[0]["properties"])))
        parent[key] = _of_type(draw, schema, rules[0]["properties"][key])
    elif rules := _rules(schema, schema, place):
        parent[place[-1]] = _of_type(draw, schema, rules[0])


def _of_type(draw, schema: dict, rule: dict, depth: int = 0) -> Any:
    rule = _resolved(schema, rule)
    if "anyOf" in rule:
        return _of_type(draw, schema, draw(st.sampled_from(rule["anyOf"])), depth)
    if "enum" in rule or "const" in rule:
        return draw(st.sampled_from(rule.get("enum") or [rule["const"]]))
    kind = rule.get("type")
    kind = draw(st.sampled_from(kind)) if isinstance(kind, list) else kind
    if kind in ("integer", "number"):
        bounds = [
            rule[key]
            for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
            if key in rule
        ]
        near = [bound + step for bound in bounds for step in (0, 1, -1)]
        number = draw(st.sampled_from((*near, *range(1, 8), 16, 64, 128, 256, 1000, 10**6)))
        return (
            number
            if kind == "integer"
            else draw(st.sampled_from((float(number), 0.5, 0.1, 0.01, 1e-4)))
        )
    if kind == "boolean":
        return draw(st.booleans())
    if kind == "null":
        return None
    if kind == "array":
        items = rule.get("items", {})
        return [_of_type(draw, schema, items, depth + 1) for _ in range(draw(st.integers(0, 3)))]
    if kind == "object" and depth < 3:
        known = rule.get("properties", {})
        names = [
            key for key in known if key in rule.get("required", ()) or draw(st.integers(0, 3)) == 0
        ]
        more = rule.get("additionalProperties") or next(
            iter(rule.get("patternProperties", {}).values()), None
        )
        found = {key: _of_type(draw, schema, known[key], depth + 1) for key in names}
        if isinstance(more, dict):
            found[draw(st.sampled_from(NAMES))] = _of_type(draw, schema, more, depth + 1)
        return found
    return draw(st.sampled_from((*NAMES, *TEXTS)))


def _value(draw) -> Any:
    return copy.deepcopy(draw(VALUES))


def _places(value: Any, place: tuple):
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in children:
        yield (*place, key)
        yield from _places(child, (*place, key))


def _at(values: Any, place: tuple) -> Any:
    for part in place:
        values = values[part]
    return values


def _resolved(schema: dict, rule: dict) -> dict:
    while "$ref" in rule:
        rule = schema["$defs"][rule["$ref"].rpartition("/")[2]]
    return rule


def _rules(schema: dict, rule: dict, place: tuple) -> list[dict]:
    rule = _resolved(schema, rule)
    if "anyOf" in rule:
        return [found for inner in rule["anyOf"] for found in _rules(schema, inner, place)]
    if not place:
        return [rule]
    name, *rest = place
    if isinstance(name, int):
        children = [rule["items"]] if "items" in rule else []
    else:
        children = [rule["properties"][name]] if name in rule.get("properties", {}) else []
        if not children:
            children = [*rule.get("patternProperties", {}).values()]
            more = rule.get("additionalProperties")
            children += [more] if isinstance(more, dict) else []
    return [found for child in children for found in _rules(schema, child, tuple(rest))]
