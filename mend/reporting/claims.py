"""Claims: judged by one rule, and the paper's listed with their verdicts and the evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from mend.configuration.claims import CostClaim
from mend.configuration.display_names import method_display_name
from mend.evaluation.statistics import verdict
from mend.paper import paper_table

NOT_RUN, NOT_JUDGED = "not run", "not judged"
BEYOND = "beyond the paper"


def judged(
    text: str, llm: str, margin: float, pairs: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """A claim with its verdict on one LLM: {text, llm, margin, verdict, pairs}.

    Each pair has ci_low and ci_high, the ends of what is to be above the margin, and gets a
    verdict. The claim holds where all its pairs do, and does not hold where one does not.
    """
    pairs = [dict(pair, verdict=verdict(pair["ci_low"], pair["ci_high"], margin)) for pair in pairs]
    verdicts = {pair["verdict"] for pair in pairs}
    whole = next((name for name in ("does not hold", "not clear") if name in verdicts), "holds")
    return {"text": text, "llm": llm, "margin": margin, "verdict": whole, "pairs": pairs}


@dataclass(frozen=True)
class Judged:
    """A claim as the report lists it.

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


def paper_claims(claims: Iterable[Judged], pictures: Iterable[str]) -> list[Judged]:
    """The paper's claims in its order, then what else the studies claim.

    What no claim judges is "not run", or "not judged" where a picture is all that the paper shows,
    or where a note says why it cannot be.
    """
    found: dict[tuple[str, str], list[Judged]] = {}
    for claim in claims:
        found.setdefault((claim.study, claim.text), []).append(claim)
    shown = {*pictures} - {"figure3"}
    listed = []
    for row in paper_table("claims").fillna("").to_dict("records"):
        judgeable = row["study"] not in shown and not row["note"]
        missing = Judged(**row, verdict=NOT_RUN if judgeable else NOT_JUDGED)
        own = found.pop((row["study"], row["text"]), [missing])
        listed += [replace(claim, where=row["where"]) for claim in own]
    rest = [claim for own in found.values() for claim in own]
    return listed + [replace(claim, where=BEYOND) for claim in rest]


def study_judgements(study: str, blocks: Sequence[Mapping[str, Any]]) -> Iterator[Judged]:
    """A study's claims, from `mend.reporting.studies.section.claim_blocks`."""
    for block in blocks:
        for claim in block["claims"]:
            # Of several places, the one that is furthest from what is claimed.
            worst = min(claim["pairs"], key=lambda pair: pair["mean"])
            several = f"{_at(claim)}; least: {worst['name']}" if len(claim["pairs"]) > 1 else ""
            bar = f"bar at {claim['margin']:g}".replace("-", "−") if claim["margin"] else ""
            yield Judged(
                study,
                "",
                claim["text"],
                verdict=claim["verdict"],
                llm=block["name"],
                ours={key: worst[key] for key in ("mean", "ci_low", "ci_high")},
                note="; ".join(filter(None, [bar, several])),
                paper=worst["paper"],
            )


def cost_judgements(
    claims: Sequence[CostClaim], drawn: pd.DataFrame, names: Mapping[str, str | None]
) -> Iterator[Judged]:
    """Claims of figure 3, from what is drawn: judged at each partition, without intervals.

    What is claimed of "up to" so much holds where it holds at one partition.
    `names`: the paper's LLM of ours. Operations and memory are counted, time is measured once.
    """
    paper = paper_table("figure3").rename(
        columns={"forward_tflops": "flops", "peak_memory_gb": "peak_memory_bytes"}
    )
    for claim in claims:
        for llm in drawn["llm"].unique():
            rows = drawn[(drawn["llm"] == llm) & (drawn["panel"] == claim.quantity)]
            rows = rows[rows["part"] == "total"].dropna(subset="value")
            shares = _shares(rows, "value", claim)
            if shares.empty:
                continue
            below = claim.times - shares
            deciding = [below.max()] if claim.up_to else below
            found = judged(claim.text, llm, 0, [{"ci_low": v, "ci_high": v} for v in deciding])
            name = llm.split(",")[0]
            known = names.get(name) or name
            printed = _shares(paper[paper["llm"] == known], claim.quantity, claim)
            yield Judged(
                "figure3",
                "",
                claim.text,
                verdict=found["verdict"],
                llm=llm,
                share=_times(shares),
                note=f"{method_display_name(claim.higher)}’s, "
                f"at {(below > 0).sum()} of {len(below)} partitions",
                paper=_times(printed),
            )


def _shares(rows: pd.DataFrame, column: str, claim: CostClaim) -> pd.Series:
    """A method's cost as a multiple of another method's, for each partition."""
    wide = rows.pivot_table(index="partition", columns="method", values=column)
    if not {claim.lower, claim.higher} <= set(wide.columns):
        return pd.Series(dtype=float)
    return (wide[claim.lower] / wide[claim.higher]).dropna()


def _at(claim: Mapping[str, Any]) -> str:
    verdicts = [pair["verdict"] for pair in claim["pairs"]]
    return f"at {verdicts.count('holds')} of {len(verdicts)}"


def _times(values: pd.Series) -> str:
    if values.empty:
        return ""
    ends = dict.fromkeys([f"{values.min():.2f}", f"{values.max():.2f}"])
    return f"{' to '.join(ends)} times"
