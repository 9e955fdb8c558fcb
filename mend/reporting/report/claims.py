"""The paper's claims, each with its verdict and the evidence, from a configuration's results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mend.atomic_io import read_json
from mend.display_names import method_label
from mend.evaluation.statistics import AVERAGE, difference_name, verdict
from mend.paper import paper_table
from mend.reporting.studies.page import study_claims
from mend.reporting.tables.table2_numbers import CLAIMS, paper_scores

NOT_RUN, NOT_JUDGED = "not run", "not judged"
EFFICIENCY = (
    (
        "MEND needs fewer operations than vanilla ICL, up to 3.5 times fewer",
        *("flops", "vanilla-icl", 1.0),
    ),
    ("MEND needs less peak memory than vanilla ICL", "peak_memory_bytes", "vanilla-icl", 1.0),
    ("MEND answers in less time than vanilla ICL", "seconds", "vanilla-icl", 1.0),
    (
        "MEND needs about as many operations as prompt tuning, at most half as many again",
        *("flops", "prompt-tuning", 1.5),
    ),
)
"""Claims of figure 3: MEND needs less than so many times of a quantity of another method."""

BEYOND = "beyond the paper"


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict on one LLM.

    study: the table, figure or study that it is judged by; where: in the paper; verdict: holds,
    does not hold, not clear, not run or not judged; ours: {mean, ci_low, ci_high} of a difference
    in points, or None; share: for costs, how many times another method's; note: where and of what;
    paper: the paper's number as text, empty where it has none.
    """

    study: str
    where: str
    text: str
    verdict: str
    llm: str = ""
    ours: Mapping[str, float] | None = None
    share: str = ""
    note: str = ""
    paper: str = ""


def all_claims(results: str | Path, parts: Sequence[Mapping[str, Any]]) -> list[Judged]:
    """The paper's claims in its order, then what else the studies claim.

    `parts` are those of `mend.configuration.report_spec.report_specification`. What none of them
    can judge is "not run", or "not judged" where a picture is all that the paper shows.
    """
    results = Path(results)
    tables = [name for part in parts for name in part["tables"]]
    pictures = {name for part in parts for name in part["pictures"]}
    found: dict[tuple[str, str], list[Judged]] = {}
    for claim in _judged(results, tables, pictures):
        found.setdefault((claim.study, claim.text), []).append(claim)
    claims = []
    for row in paper_table("claims").to_dict("records"):
        own = found.pop((row["study"], row["text"]), None)
        shown = row["study"] in pictures and row["study"] != "figure3"
        missing = Judged(**row, verdict=NOT_JUDGED if shown else NOT_RUN)
        claims += [replace(claim, where=row["where"]) for claim in own or [missing]]
    rest = [claim for own in found.values() for claim in own]
    return claims + [replace(claim, where=BEYOND) for claim in rest]


def _judged(results: Path, tables: Sequence[str], pictures: set[str]) -> Iterator[Judged]:
    """The claims of table 2, figure 3 and the studies, as far as these are there; no `where`."""
    names = {}
    if "table2" in tables:
        spec = read_json(results / "table2.spec.json")
        names = {llm["name"]: llm.get("paper_llm") for llm in spec["llms"]}
        yield from table2_claims(spec, pd.read_parquet(results / "table2.parquet"))
    if "figure3" in pictures:
        yield from efficiency_claims(pd.read_parquet(results / "figure3.parquet"), names)
    for name in tables:
        claims = results / f"{name}.claims.json"
        if claims.exists():
            spec = read_json(results / f"{name}.spec.json")
            table = pd.read_parquet(results / f"{name}.parquet")
            yield from _study(spec, table, read_json(claims))


def table2_claims(spec: Mapping[str, Any], numbers: pd.DataFrame) -> Iterator[Judged]:
    """What section 4.2 concludes, on AVG; `numbers` is table 2 in long form."""
    partitions = [name for name in numbers["partition"].unique() if name != AVERAGE]
    paper = paper_scores(spec, partitions)
    averages = paper[paper["partition"] == AVERAGE].set_index(["llm", "method"])["mean"]
    ours = numbers[numbers["partition"] == AVERAGE].set_index(["llm", "method"])
    for claim in CLAIMS:
        for llm in spec["llms"]:
            place = (llm["name"], difference_name(claim.method, claim.baseline))
            if place not in ours.index:
                continue
            row = ours.loc[place]
            pair = [(llm.get("paper_llm"), name) for name in (claim.method, claim.baseline)]
            known = all(key in averages.index for key in pair)
            yield Judged(
                *("table2", "", claim.text),
                verdict=verdict(row["ci_low"], row["ci_high"], claim.margin),
                llm=llm["name"],
                ours={key: float(row[key]) for key in ("mean", "ci_low", "ci_high")},
                note=_bar(claim.margin),
                paper=f"{averages[pair[0]] - averages[pair[1]]:+.2f}" if known else "",
            )


def efficiency_claims(drawn: pd.DataFrame, names: Mapping[str, str | None]) -> Iterator[Judged]:
    """Section 4.2 on figure 3, from what is drawn: judged at each partition, without intervals.

    `names`: the paper's LLM of ours. Operations and memory are counted, time is measured once.
    """
    paper = paper_table("figure3").rename(
        columns={"forward_tflops": "flops", "peak_memory_gb": "peak_memory_bytes"}
    )
    for text, quantity, other, most in EFFICIENCY:
        for llm in drawn["llm"].unique():
            rows = drawn[(drawn["llm"] == llm) & (drawn["panel"] == quantity)]
            rows = rows[rows["part"] == "total"].dropna(subset="value")
            shares = _shares(rows, "value", other)
            if shares.empty:
                continue
            good = shares < most
            known = names.get(llm) or llm.split(",")[0]
            printed = _shares(paper[paper["llm"] == known], quantity, other)
            yield Judged(
                *("figure3", "", text),
                verdict="holds" if good.all() else "does not hold",
                llm=llm,
                share=f"{_range(shares)} times",
                note=f"{method_label(other)}’s, {_at(good)} partitions",
                paper="" if printed.empty else f"{_range(printed)} times",
            )


def _shares(rows: pd.DataFrame, column: str, other: str) -> pd.Series:
    """MEND's cost as a multiple of another method's, for each partition."""
    wide = rows.pivot_table(index="partition", columns="method", values=column)
    if not {"mend", other} <= set(wide.columns):
        return pd.Series(dtype=float)
    return (wide["mend"] / wide[other]).dropna()


def _study(spec: Mapping[str, Any], table: pd.DataFrame, claims: list) -> Iterator[Judged]:
    for block in study_claims(spec, table, claims):
        for claim in block["claims"]:
            # Of several places, the one that is furthest from what is claimed.
            worst = min(claim["pairs"], key=lambda pair: pair["mean"])
            several = len(claim["pairs"]) > 1
            good = pd.Series([pair["verdict"] == "holds" for pair in claim["pairs"]])
            notes = [_bar(claim["margin"]), f"{_at(good)}; least: {worst['label']}" * several]
            yield Judged(
                *(spec["name"], "", claim["text"]),
                verdict=claim["verdict"],
                llm=block["name"],
                ours={key: worst[key] for key in ("mean", "ci_low", "ci_high")},
                note="; ".join(filter(None, notes)),
                paper=worst["paper"],
            )


def _bar(margin: float) -> str:
    return f"bar at {margin:g}".replace("-", "−") if margin else ""


def _at(good: pd.Series) -> str:
    return f"at {good.sum()} of {len(good)}"


def _range(values: pd.Series) -> str:
    low, high = f"{values.min():.2f}", f"{values.max():.2f}"
    return low if low == high else f"{low} to {high}"
