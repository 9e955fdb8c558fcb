"""Fidelity: which values follow the paper, which the authors' code, and which are ours."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mend.configuration.choices import PRESETS

NOTES = """\
`metaicl` is what MetaICL's published code does with GPT-2 and the direct method: the same tokens,
and so the same score of every option. Demonstrations, query and option together have at most 256
tokens for each demonstration, at most 1,024; of more the oldest fall off, for each option by
itself, and no special token is added. MEND's methods, which it lacks, are as by default. Its
special cases for tasks with instructions (names that begin with `inst:`) are left out.

The tokens of a context, a query and an option are those of the joined text, whatever a tokenizer
puts before a text that stands alone, except that a token never reaches from one input or output
into the next: each begins, with the separator before it, with a token of its own.

An encoder-decoder LLM reads the context in its encoder, query and answer in its
decoder, as the paper says (`mend/models/encoder_decoder.py`); with `llms.NAME.query_in: encoder`
the query goes to the encoder too. Then no token of the query is predicted, so that
`distill_in_finetuning: input`, which the preset `paper` has, would distil nothing: the two together
are refused. The authors' code has no T5.

The paper does not say how a T5 distils. By default it is the encoder of the smaller T5: the
placeholders stand after the demonstrations, and their last states are the vectors, as in the
decoder-only case; each sees all demonstrations in every layer. With `distiller: {part: decoder}`
the encoder reads the demonstrations, and the decoder the placeholders. A decoder was pretrained to
answer from what it reads, an encoder was not: with the pocket T5 the decoder learned to distil
several times faster (docs/pocket.md), so the pocket configuration has it.

A wrong or random label (`perturbation`) is sampled once for each demonstration, and all methods
see the same one (`mend/data/perturbation.py`); the authors' code samples it apart for teacher and
student, and stops with an error at wrong labels.

Retrieval, induction heads, FLOPs, memory and time are described in the paper and not in
the authors' release; ours are in `mend/data/`, `mend/analysis/induction_heads.py` and
`mend/analysis/efficiency.py`. Figure 3 measures one task of each partition, and the paper prints
how long their demonstrations are, not which they are. Ours is the task whose demonstrations are
nearest to that, no two partitions the same; with an LLM that the paper measured, contexts of
exactly its lengths (469, 652, 639, 848 and 818 tokens) are measured besides.
"""


@cache
def fidelity() -> dict[str, dict[str, Any]]:
    """Return mend/configuration/fidelity.yaml: key -> {what, and a value for each preset}."""
    return yaml.safe_load(Path(__file__).with_name("fidelity.yaml").read_text(encoding="utf-8"))


def with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with the keys that it leaves out filled in from its preset."""
    values = copy.deepcopy(values)
    protocol = values.get("protocol")
    preset = protocol.get("preset", "default") if isinstance(protocol, dict) else "default"
    if preset not in PRESETS:
        preset = "default"  # the types refuse it
    for key, entry in fidelity().items():
        place = key.split(".") if "." in key else ["protocol", key]
        for parent in _places(values, place[:-1]):
            value = preset_value(entry, preset, parent.get("paper_llm"))
            parent.setdefault(place[-1], copy.deepcopy(value))
    return values


def preset_value(entry: dict[str, Any], preset: str, paper_llm: Any = None) -> Any:
    """Return a preset's value of an entry of `fidelity`; paper_llm: which of the paper's LLMs."""
    value = entry[preset]
    if isinstance(value, dict) and "other" in value:
        return value.get(str(paper_llm), value["other"])
    return value


def _places(values: Any, place: list[str]) -> list[dict]:
    """Return the dictionaries at a dotted place, `*` standing for every key."""
    found = [values]
    for name in place:
        found = [
            child
            for parent in found
            for key, child in parent.items()
            if name in ("*", key) and isinstance(child, dict)
        ]
    return found


def fidelity_page() -> str:
    """Return docs/fidelity.md."""
    lines = [
        "# What the paper says, what the authors' code does, and what this software does",
        "",
        "Where the paper and its released code differ, or the paper is silent, there is a key. Set",
        "`protocol: {preset: paper}`, `authors-code` or `metaicl` to choose a column, and any key",
        "besides it to depart from the column. Keys without a dot stand under `protocol`; those",
        "with one stand where they say (`*` is every LLM or every stage), and a preset fills them",
        "in only if the configuration leaves them out. What differs between the paper's LLMs goes",
        "by `llms.NAME.paper_llm`.",
        "",
        "This page is made from `mend/configuration/fidelity.yaml`:",
        "`python -m mend.configuration.presets`.",
        "",
        f"| key | what | {' | '.join(PRESETS)} |",
        "|---" * (2 + len(PRESETS)) + "|",
    ]
    for key, entry in fidelity().items():
        cells = [f"`{_shown(entry[preset])}`" for preset in PRESETS]
        lines.append(f"| `{key}` | {entry['what']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n" + NOTES


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    Path("docs/fidelity.md").write_text(fidelity_page(), encoding="utf-8")
