"""One page with every result of a configuration: the paper's claims, tables, figures and costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mend import __version__
from mend.atomic_io import read_json, write_text
from mend.display_names import METHOD_LABELS, method_label
from mend.evaluation.statistics import AVERAGE, difference_name
from mend.reporting.figures.curves import draw_curves
from mend.reporting.pages import page_content, render
from mend.reporting.report.claims import BEYOND, NOT_JUDGED, NOT_RUN, Judged, all_claims
from mend.reporting.report.graph import draw_rules
from mend.reporting.report.pictures import embedded
from mend.reporting.report.runs import read_benchmarks, read_runs, rule_times, totals, warnings
from mend.reporting.tables.table2_numbers import paper_scores
from mend.reporting.training_costs import commits, costs, versions

PICTURE_BYTES = 3_000_000
"""Of all pictures together; the rest of the page is text."""

CAPTIONS = {
    "table1": ("Table 1", "Tasks and demonstrations"),
    "table2": ("Table 2", "Methods and partitions"),
    "table3": ("Table 3", "Perturbed demonstrations"),
    "table4": ("Table 4", "Ablations of pretraining and finetuning"),
    "table5": ("Table 5", "Hyperparameters"),
    "table6": ("Table 6", "Other language models"),
    "table7": ("Table 7", "Another template at test time"),
    "figure3": (
        "Figure 3",
        "What inference costs: operations, memory and time of one query, and many queries of one "
        "context. Diamonds are the paper’s.",
    ),
    "figure4": (
        "Figure 4",
        "Scores by how much is distilled, into how much: demonstrations and vectors.",
    ),
    "figure5": (
        "Figure 5",
        "Where the four best induction heads look before the first token of an answer, with "
        "vanilla ICL and with MEND: on demonstrations or vectors (framed) and on the query.",
    ),
    "figure6": ("Figure 6", "β and γ of pretraining."),
    "figure7": ("Figure 7", "λ of finetuning."),
    "figure8": ("Figure 8", "Induction score of every head of the frozen language model."),
}
"""The name of each of the paper's results, and what it shows."""


def write_report(spec: Mapping[str, Any], output: str | Path) -> None:
    """Write the report as one HTML file without outside references, below 5 MB.

    `spec` is what `mend.configuration.report_spec.report_specification` returns; what it names is
    read from its results folder. Raises UserError, naming the file, for what is missing or
    malformed.
    """
    results = Path(spec["results"])
    runs = read_runs(results, spec["runs"])
    records = [record for record, _ in runs]
    jobs = read_benchmarks(results)
    claims = all_claims(results, spec["parts"])
    curves = list(draw_curves(runs))
    count = len(curves) + sum(len(part["pictures"]) for part in spec["parts"])
    budget = PICTURE_BYTES // max(1, count)
    specs = {name: read_json(results / f"{name}.spec.json") for name in tables_of(spec)}
    table2 = specs["table2"]
    page = render(
        "report.html.j2",
        title="MEND: results",
        spec=spec,
        anchors={*specs, *(part["name"] for part in spec["parts"])},
        beyond_name=BEYOND,
        titles={name: own.get("title") or name for name, own in specs.items()},
        main=main_result(table2, pd.read_parquet(results / "table2.parquet"), claims),
        claims=[claim for claim in claims if claim.where != BEYOND],
        beyond=[claim for claim in claims if claim.where == BEYOND],
        name_llms=len({claim.llm for claim in claims} - {""}) > 1,
        parts=[_part(results, part, budget) for part in spec["parts"]],
        absent=[CAPTIONS[name] for name in spec["absent"]],
        curves=[
            {"llm": llm, "stage": stage, "picture": embedded(png, budget)}
            for llm, stage, png in curves
        ],
        costs=[
            {**row, "label": method_label(row["method"])}
            for row in costs(records, list(METHOD_LABELS))
        ],
        totals=totals(records),
        warnings=warnings(dict(zip(spec["runs"], records, strict=True)), jobs),
        rule_times=rule_times(jobs),
        graph=draw_rules(spec["rules"]),
        jobs=sum(rule["jobs"] for rule in spec["rules"]),
        commits=commits(records),
        versions=versions(records),
        devices=sorted({device for row in costs(records, []) for device in row["devices"]}),
        seeds={
            "benchmark": table2["seeds"],
            "training": sorted({r["seed"] for r in records if r.get("seed") is not None}),
        },
        version=__version__,
    )
    write_text(page, output)


def tables_of(spec: Mapping[str, Any]) -> list[str]:
    """The names of all tables that a report shows."""
    return [name for part in spec["parts"] for name in part["tables"]]


def main_result(
    spec: Mapping[str, Any], numbers: pd.DataFrame, claims: Sequence[Judged]
) -> dict[str, Any]:
    """The numbers of the main result: AVG of each method and LLM, and how many claims hold.

    llms: [{name, paper (LLM), scores: [{label, paper, mean, ci_low, ...}], best, differences:
    MEND's to other methods}]; verdicts: a count of each, of the paper's claims.
    """
    partitions = [name for name in numbers["partition"].unique() if name != AVERAGE]
    rows = numbers[numbers["partition"] == AVERAGE].set_index(["llm", "method"])
    paper = paper_scores(spec, partitions)
    paper = paper[paper["partition"] == AVERAGE].set_index(["llm", "method"])["mean"]
    llms = []
    for llm in spec["llms"]:
        scores = [
            {
                "label": method_label(method),
                "paper": paper.get((llm.get("paper_llm"), method)),
                **rows.loc[llm["name"], method],
            }
            for method in spec["methods"]
        ]
        differences = [
            {
                "label": method_label(method),
                **rows.loc[llm["name"], difference_name("mend", method)],
            }
            for method in ("vanilla-icl", "hypertuning", "prompt-tuning")
            if (llm["name"], difference_name("mend", method)) in rows.index
        ]
        llms.append(
            {
                **{"name": llm["name"], "paper": llm.get("paper_llm"), "scores": scores},
                **{"differences": differences, "best": max(scores, key=lambda row: row["mean"])},
                "mend": next((row for row in scores if row["label"] == method_label("mend")), None),
            }
        )
    own = [claim for claim in claims if claim.where != BEYOND]
    verdicts = Counter(claim.verdict for claim in own)
    judged = sum(count for name, count in verdicts.items() if name not in (NOT_RUN, NOT_JUDGED))
    return {
        "llms": llms,
        "verdicts": verdicts,
        "judged": judged,
        "claims": len(own),
        "partitions": len(partitions),
    }


def _part(results: Path, part: Mapping[str, Any], budget: int) -> dict[str, Any]:
    """A result with its pages and pictures; a heading of its own only where it needs one."""
    label, caption = CAPTIONS.get(part["name"], ("", ""))
    title = part["title"] or (f"{label}: {caption}" if caption else part["name"])
    # A table's page brings its own heading, unless several pages or only a picture stand here.
    alone = len(part["tables"]) == 1 and part["name"] in part["tables"]
    return {
        **part,
        "title": title,
        "heading": None if alone else label or title,
        "caption": None if alone else caption,
        "short": label or title,
        "panels": part["studies"] if len(part["studies"]) > 1 else [],
        "pages": {
            name: page_content(results / f"{name}.html", 2 if alone else 3)
            for name in part["tables"]
        },
        "images": [
            {"name": name, **embedded(results / f"{name}.png", budget)} for name in part["pictures"]
        ],
    }
