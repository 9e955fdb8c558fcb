"""One page with every result of a configuration: the paper's claims, tables, figures and costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from mend import __version__
from mend.atomic_io import read_json, write_text
from mend.configuration.display_names import PAPER_METHODS, method_display_name
from mend.configuration.settings import read_spec
from mend.configuration.specs.reporting import (
    ReportPart,
    ReportSpec,
    StudySpec,
    Table1Spec,
    Table5Spec,
)
from mend.data.parquet import REAL, TEXT, read_columns
from mend.errors import UserError
from mend.progress import logger
from mend.provenance import changed_inputs, replaced_text
from mend.reporting.candidates import read_candidates, tried
from mend.reporting.claims import (
    BEYOND,
    NOT_JUDGED,
    NOT_RUN,
    Judged,
    cost_judgements,
    paper_claims,
    study_judgements,
)
from mend.reporting.cuts import cut_rows
from mend.reporting.pages import render
from mend.reporting.report.leaderboard import StudyResult, leaderboard
from mend.reporting.report.pictures import embedded
from mend.reporting.report.runs import read_benchmarks, rule_times, totals, warnings
from mend.reporting.studies.section import claim_blocks, partition_grid, study_section
from mend.reporting.studies.table import read_study_table
from mend.reporting.tables.table1 import COLUMNS as TABLE1_COLUMNS
from mend.reporting.tables.table1 import table1_section
from mend.reporting.tables.table5 import COLUMNS as TABLE5_COLUMNS
from mend.reporting.tables.table5 import table5_section
from mend.reporting.training_costs import Record, commits, read_record, training_costs, versions

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


READINGS = {
    "learning-curves": (
        "Learning curves",
        "Losses of training examples and, where training could stop early, scores on dev rows, "
        "by the examples that were seen (chunks of text in pretraining, episodes in "
        "finetuning), so that trainings with other batches compare. A line is the mean over "
        "partitions, until the first of them stops, and over training seeds; a band is the "
        "range of these. A point of a long training is the mean of several steps. Dev scores "
        "chose the weights that were kept, so the best of them promises a little too much.",
    ),
    "divergence": (
        "Divergence from the teacher",
        "The teacher is the language model after the demonstrations themselves, the student the "
        "same model after a method’s context; drawn is how far the student’s next-token "
        "distribution is from the teacher’s, KL(teacher ‖ student) in nats: at each token of "
        "the query, 0 being the first after the context, and at the right at the right answer’s "
        "first token. It is the mean over dev rows of the meta-test tasks, as far as half of "
        "them reach, and over training seeds, with their range. Zero-shot, which reads nothing, "
        "is what there was to save; vanilla ICL is the teacher, and 0. Nearer to the teacher is "
        "not yet a better answer: the scores say that.",
    ),
    "costs": (
        "Scores by what contexts cost",
        "At the left, scores by the bytes that a saved context is kept in; at the right, by the "
        "floating-point operations that read it, one query and its options. Both scales are "
        "logarithmic. A line joins the budgets of a run, with 95 % intervals, so that of two at "
        "one place the higher makes more of as much; what costs the same stands side by side. "
        "The dashed lines are the language model without any context and, where the study names "
        "it, with the longest one. What it takes to make a context is in the table: the picture "
        "is of many queries.",
    ),
}
"""What heads the pictures of a study's runs, and how to read them."""


SECTIONS = {
    "table1": (Table1Spec, TABLE1_COLUMNS, table1_section),
    "table5": (Table5Spec, TABLE5_COLUMNS, table5_section),
}
"""Tables that are no studies."""


@dataclass(frozen=True)
class ShownTable:
    """A table of the report, read: what makes its section, and of a study what it is made of."""

    section: Callable[..., Markup]
    title: str
    spec: StudySpec | None = None
    table: pd.DataFrame | None = None
    claims: Sequence[Mapping[str, Any]] = ()
    records: Sequence[Record] = ()
    cuts: Sequence[Mapping[str, Any]] = ()

    @property
    def judgements(self) -> list[Judged]:
        """Its claims as the report lists them."""
        if self.spec is None:
            return []
        blocks = claim_blocks(self.spec, self.table, self.claims)
        return list(study_judgements(self.spec.name, blocks))


def write_report(spec: ReportSpec, output: str | Path) -> None:
    """Write the report as one HTML file without outside references, below 5 MB.

    What `spec` names is read from its results folder. Raises UserError, naming the file, for what
    is missing or malformed.
    """
    results = Path(spec.results)
    records = {stage: read_record(results / stage / "record.json") for stage in spec.stages}
    all_records = list(records.values())
    costs = training_costs(all_records, PAPER_METHODS)
    jobs = read_benchmarks(results)
    tables = read_tables(spec, records)
    if "table2" not in tables or tables["table2"].spec is None:
        raise UserError("report: parts has no table2, which the report begins with")
    claims = judged_claims(spec, tables)
    chosen = any(spec.study_choices.values())
    budget = PICTURE_BYTES // max(1, sum(len(part.pictures) for part in spec.parts))
    changed = changed_inputs(results / f"{name}.details.json" for name in tables)
    if changed:
        logger.warning("%s", replaced_text(changed))
    page = render(
        "report.html.j2",
        replaced=replaced_text(changed) if changed else None,
        title="MEND: results",
        spec=spec,
        anchors={*tables, *(part.name for part in spec.parts)},
        beyond_name=BEYOND,
        titles={name: table.title for name, table in tables.items()},
        main=main_result(tables["table2"], claims),
        claims=[claim for claim in claims if claim.where != BEYOND],
        beyond=[claim for claim in claims if claim.where == BEYOND],
        intervals=sum(claim.ours is not None for claim in claims),
        name_llms=len({claim.llm for claim in claims} - {""}) > 1,
        parts=[_part(results, part, tables, budget) for part in spec.parts],
        leaderboard=leaderboard(
            StudyResult(table.spec, table.table, table.records)
            for table in tables.values()
            if table.spec is not None
        ),
        absent=[CAPTIONS[name] for name in spec.absent],
        tried=tried(read_candidates(results / "candidates.parquet")) if chosen else [],
        costs=costs,
        cuts=cut_rows((run for table in tables.values() for run in table.cuts), all_records),
        totals=totals(all_records),
        warnings=warnings(records, jobs),
        rule_times=rule_times(jobs),
        commits=commits(all_records),
        versions=versions(all_records),
        devices=sorted({device for row in costs for device in row["devices"]}),
        seeds={
            "benchmark": tables["table2"].spec.seeds,
            "training": sorted({r["seed"] for r in all_records if r.get("seed") is not None}),
        },
        version=__version__,
    )
    write_text(page, output)


def judged_claims(spec: ReportSpec, tables: Mapping[str, ShownTable]) -> list[Judged]:
    """The claims of the paper and of the studies, judged by what is in the results folder."""
    pictures = [name for part in spec.parts for name in part.pictures]
    found = [claim for table in tables.values() for claim in table.judgements]
    if "figure3" in pictures:
        file = Path(spec.results, "figure3.parquet")
        keys = dict.fromkeys(["llm", "panel", "partition", "method", "part"], TEXT)
        columns = {**keys, "value": REAL}
        drawn = read_columns(file, columns, "numbers of figure 3", None, ["value"]).to_pandas()
        names = {llm.name: llm.paper_llm for llm in tables["table2"].spec.llms}
        found += cost_judgements(spec.cost_claims, drawn, names)
    return paper_claims(found, pictures)


def read_tables(spec: ReportSpec, records: Mapping[str, Record]) -> dict[str, ShownTable]:
    """The tables of a report; `records` of the training runs by their folders.

    Raises UserError, naming the file, for what is missing or malformed.
    """
    return {
        name: _read_table(
            Path(spec.results),
            name,
            [records[stage] for stage in spec.study_stages.get(name, ())],
            [
                read_record(Path(spec.results, folder, "record.json"))
                for folder in spec.study_choices.get(name, ())
            ],
        )
        for part in spec.parts
        for name in part.tables
    }


def _read_table(
    results: Path, name: str, records: Sequence[Record], choices: Sequence[Record]
) -> ShownTable:
    file, parquet = results / f"{name}.spec.json", results / f"{name}.parquet"
    if name in SECTIONS:
        kind, columns, section = SECTIONS[name]
        table = read_columns(
            parquet, columns, "a table's numbers", None, ["length", "length_uncut"]
        )
        return ShownTable(partial(section, read_spec(file, kind), table.to_pandas()), title=name)
    spec = read_spec(file, StudySpec)
    table, details = read_study_table(spec, parquet), _read_details(results, name)
    return ShownTable(
        section=partial(study_section, spec, table, details, records, choices),
        title=spec.title,
        spec=spec,
        table=table,
        claims=details["claims"],
        records=[*records, *choices],
        cuts=details.get("cuts", ()),
    )


def _read_details(results: Path, name: str) -> Mapping[str, Any]:
    """Read what else a study's job wrote; raises UserError if it is something else."""
    file = results / f"{name}.details.json"
    details = read_json(file)
    if not isinstance(details, dict) or not all(
        isinstance(details.get(key, []), list) for key in ("claims", "other_mean", "cuts")
    ):
        raise UserError(f"{file}: not a study's details; delete it to make it again")
    return {"claims": [], "other_mean": [], **details}


def main_result(table2: ShownTable, claims: Iterable[Judged]) -> dict[str, Any]:
    """The numbers of the main result: AVG of each method and LLM, and how many claims hold.

    llms: [{name, paper (LLM), scores: [{name, paper, mean, ci_low, ...}], best, differences:
    MEND's to other methods}]; verdicts: a count of each, of the paper's claims.
    """
    mend = method_display_name("mend")
    others = list(map(method_display_name, ("vanilla-icl", "hypertuning", "prompt-tuning")))
    llms = []
    for block in partition_grid(table2.spec, table2.table)["blocks"]:
        scores = [{**row["cells"][-1], "name": row["name"]} for row in block["rows"]]
        differences = {
            pair["lower"]["run"]: {**pair, "name": pair["lower"]["run"]}
            for claim in table2.claims
            for pair in claim["pairs"]
            if claim["llm"] == block["name"] and pair["higher"]["run"] == mend
        }
        llms.append(
            {
                "name": block["name"],
                "paper": block["paper"] if any(row["paper"] for row in scores) else None,
                "scores": scores,
                # As displayed; several may be.
                "best": [
                    row
                    for row in scores
                    if round(row["mean"], 1) == round(max(one["mean"] for one in scores), 1)
                ],
                "mend": next((row for row in scores if row["name"] == mend), None),
                "differences": [differences[name] for name in others if name in differences],
            }
        )
    own = [claim for claim in claims if claim.where != BEYOND]
    verdicts = Counter(claim.verdict for claim in own)
    return {
        "llms": llms,
        "verdicts": verdicts,
        "judged": len(own) - verdicts[NOT_RUN] - verdicts[NOT_JUDGED],
        "claims": len(own),
        "partitions": len(table2.spec.scored_partitions),
    }


def _part(
    results: Path, part: ReportPart, tables: Mapping[str, ShownTable], budget: int
) -> dict[str, Any]:
    """A result with its tables and pictures; a heading of its own only where it needs one."""
    short, caption = CAPTIONS.get(part.name, ("", ""))
    title = part.title or (f"{short}: {caption}" if caption else part.name)
    # A table brings its own heading, unless several or only a picture stand here.
    alone = part.tables == [part.name]
    return {
        **dict(part),
        "title": title,
        "heading": None if alone else short or title,
        "caption": None if alone else caption,
        "short": short or title,
        "panels": part.studies if len(part.studies) > 1 else [],
        "sections": {name: tables[name].section(level=2 if alone else 3) for name in part.tables},
        "images": [
            {
                "name": name,
                "reading": READINGS.get(name.rpartition(".")[2]),
                **embedded(results / f"{name}.png", budget),
            }
            for name in part.pictures
        ],
    }
