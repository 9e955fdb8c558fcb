"""Efficiency: measured from files to files, what many queries cost, and the picture of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet
import pytest
from helpers.jobs import SEED, changed, specification
from matplotlib import pyplot

from mend.analysis import efficiency
from mend.analysis.efficiency import (
    EFFICIENCY_SCHEMA,
    cost_records,
    measure,
    nearest_tasks,
    paper_lengths,
    paper_records,
)
from mend.configuration.specs.analysis import EfficiencySpec
from mend.configuration.specs.run import MethodSource, RunSpec
from mend.errors import UserError
from mend.methods.key_norm import KeyNorm
from mend.paper import paper_table
from mend.reporting.figures.efficiency import draw_efficiency


def rows_of(table: pd.DataFrame, **values) -> pd.DataFrame:
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def efficiency_spec(run: RunSpec, seed: int, paper_llm: str | None = None) -> EfficiencySpec:
    """Return what the job is told of a run."""
    parts = {key: getattr(run, key) for key in RunSpec.model_fields}
    wanted = {"tasks": {"class_to_class": ["parity"]}, "seed": seed, "prompt_length": 4}
    wanted["paper_llm"] = paper_llm
    return EfficiencySpec(**parts, efficiency=wanted)


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_from_files_to_a_picture(data: Path, tmp_path: Path, architecture: str) -> None:
    spec = efficiency_spec(specification(tmp_path, architecture, "mend", stage="finetune"), SEED)
    output = tmp_path / "efficiency.parquet"
    measure(spec, data / "test.parquet", data / "tasks", output)
    table = pd.read_parquet(output)
    totals = rows_of(table, part="total").set_index("method")
    # Three demonstrations of two words and an answer of one or two; l = 2.
    assert totals.loc["vanilla-icl", "context_tokens"] in range(9, 13)
    assert list(totals.loc[["prompt-tuning", "mend"], "context_tokens"]) == [4, 2]
    assert totals["seconds"].gt(0).all()
    assert totals["peak_memory_bytes"].gt(0).all()
    parts = rows_of(table, method="mend", queries=1).set_index("part")["flops"]
    assert parts["total"] == parts["distillation"] + parts["context"] + parts["query"]
    assert parts["distillation"] > 0
    weights = rows_of(table, part="weights").set_index("method")["peak_memory_bytes"]
    assert weights["prompt-tuning"] - weights["vanilla-icl"] == 4 * 16 * 4
    assert weights["mend"] > weights["prompt-tuning"]

    draw_efficiency([output], tmp_path / "figure.png", tmp_path / "figure.parquet")
    image = pyplot.imread(tmp_path / "figure.png")
    assert image.shape[1] == 2160
    drawn = pd.read_parquet(tmp_path / "figure.parquet")
    shown = rows_of(drawn, panel="flops", method="mend", part="total")["value"]
    assert list(shown) == [totals.loc["mend", "flops"]]
    panels = {"flops", "peak_memory_bytes", "seconds", "queries", "break-even"}
    assert set(drawn["panel"]) == panels


def test_other_methods_are_measured_by_their_contexts_and_figure_3_stays(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = specification(tmp_path, "gpt2", "mend", stage="finetune")
    spec = efficiency_spec(run, SEED)
    others = [
        MethodSource(name="key-norm", settings={"keep": 4}),
        MethodSource(name="selective-context", settings={"keep": 4}),
    ]
    wanted = spec.efficiency.model_copy(update={"methods": others})
    monkeypatch.setattr(
        KeyNorm, "making_operations", lambda self, llm, trained, ids: 7.0 * len(ids)
    )
    output = tmp_path / "efficiency.parquet"
    measure(
        spec.model_copy(update={"efficiency": wanted}),
        *(data / "test.parquet", data / "tasks", output),
    )
    table = pd.read_parquet(output)
    totals = rows_of(table, part="total").set_index("method")
    heads, size, layers = 2, 8, 2
    assert totals.loc["key-norm", "context_tokens"] == 4
    assert totals.loc["key-norm", "context_bytes"] == 4 * layers * heads * 2 * size * 4
    assert totals.loc["selective-context", "context_bytes"] == 8 * 4
    assert totals["seconds"].gt(0).all()
    assert totals["peak_memory_bytes"].gt(0).all()
    parts = rows_of(table, queries=1).set_index(["method", "part"])["flops"]
    read = totals.loc["vanilla-icl", "context_tokens"]
    assert parts["key-norm", "distillation"] == 7 * read
    assert parts["key-norm", "context"] == 0
    # Tokens are read as tokens are, whatever chose them; what is counted differs by attention.
    assert 0 < parts["selective-context", "context"] < parts["vanilla-icl", "context"]
    queries = [parts[name, "query"] for name in ("selective-context", "key-norm", "vanilla-icl")]
    assert queries == pytest.approx([queries[2]] * 3, rel=0.2)
    draw_efficiency([output], tmp_path / "figure.png", tmp_path / "figure.parquet")
    methods = set(pd.read_parquet(tmp_path / "figure.parquet")["method"].dropna())
    assert methods == {"vanilla-icl", "prompt-tuning", "mend"}


@pytest.mark.parametrize(
    ("tasks", "tokens", "chosen"),
    [
        # The nearest, though another is first.
        ({"a": ["s", "m", "l"]}, {"s": 90, "m": 480, "l": 900}, {"a": "m"}),
        # The nearest of both is m: a takes it, since b has one that is nearly as good.
        (
            {"a": ["s", "m"], "b": ["s", "m", "l"]},
            {"s": 90, "m": 560, "l": 700},
            {"a": "m", "b": "l"},
        ),
        # The first to be left without one gets its own, although m is nearer to the other.
        ({"a": ["m"], "b": ["m", "s"]}, {"s": 10, "m": 650}, {"a": "m", "b": "s"}),
        ({"a": ["m"], "b": ["m"]}, {"m": 651}, {"b": "m"}),
        # The paper says nothing of c.
        ({"a": ["m", "l"], "c": ["m", "l"]}, {"m": 470, "l": 900}, {"a": "m", "c": "l"}),
    ],
)
def test_each_partition_has_a_task_of_about_the_papers_length_and_no_others(
    tasks: dict, tokens: dict, chosen: dict
) -> None:
    assert nearest_tasks(tasks, tokens, {"a": 469, "b": 652}) == chosen


def test_the_papers_lengths() -> None:
    assert paper_lengths() == {
        "class_to_class": 469,
        "hr_to_lr": 652,
        "qa_to_qa": 639,
        "non_nli_to_nli": 848,
        "non_paraphrase_to_paraphrase": 818,
    }


@pytest.mark.parametrize("fits", [True, False])
def test_time_is_measured_at_the_papers_lengths_where_there_is_room(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    numbers = paper_table("figure3")
    numbers = numbers[numbers["partition"] == "class_to_class"]
    numbers = numbers.assign(context_tokens_icl=25 if fits else 26)
    monkeypatch.setattr(efficiency, "paper_table", lambda name: numbers)
    monkeypatch.setattr(efficiency, "paper_records", lambda paper_llm: [])
    run = specification(tmp_path, "gpt2", "mend", stage="finetune")
    run = changed(run, reading={"longest_context": {"llm": 25, "distiller": 25}})
    spec = efficiency_spec(run, SEED, "gpt2-large")
    measure(spec, data / "test.parquet", data / "tasks", tmp_path / "efficiency.parquet")
    table = rows_of(
        pd.read_parquet(tmp_path / "efficiency.parquet"), llm=f"{run.llm.name}, the paper's lengths"
    )
    totals = rows_of(table, part="total").set_index("method")
    if not fits:
        assert table.empty
        return
    assert dict(totals["context_tokens"]) == {"vanilla-icl": 25, "prompt-tuning": 4, "mend": 2}
    assert totals["seconds"].gt(0).all()
    assert totals["task"].isna().all()
    paper = rows_of(table, part="paper").set_index("method")
    assert paper.loc["vanilla-icl", "seconds"] == 0.24


def test_a_seed_without_rows_is_told(data: Path, tmp_path: Path) -> None:
    spec = efficiency_spec(specification(tmp_path, "gpt2", "mend", stage="finetune"), 7)
    with pytest.raises(UserError, match="no rows of parity for seed 7"):
        measure(spec, data / "test.parquet", data / "tasks", tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()


def test_many_queries_read_the_context_once_or_again() -> None:
    flops = {"distillation": 1000, "context": 100, "query": 10}
    seconds = {"distillation": 3.0, "context": 2.0, "query": 1.0}
    table = pd.DataFrame(
        cost_records(flops, {"query": 7, "context": 9, "distillation": 8}, seconds)
    )
    at_5 = rows_of(table, queries=5).set_index("part")
    assert list(at_5.loc[["cached", "reread"], "flops"]) == [1150, 1550]
    assert list(at_5.loc[["cached", "reread"], "seconds"]) == [10.0, 18.0]
    total = rows_of(table, part="total").iloc[0]
    assert (total["flops"], total["peak_memory_bytes"], total["seconds"]) == (1110, 9, 6.0)
    assert set(table["queries"]) == {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}


def test_the_papers_setting_is_counted_beside_its_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(
        efficiency.PAPER_LLMS, "gpt2-large", {"n_embd": 16, "n_layer": 1, "n_head": 2}
    )
    numbers = paper_table("figure3")
    numbers = numbers[numbers["partition"] == "class_to_class"]
    monkeypatch.setattr(efficiency, "paper_table", lambda name: numbers)
    written = pyarrow.Table.from_pylist(paper_records("gpt2-large"), schema=EFFICIENCY_SCHEMA)
    pyarrow.parquet.write_table(written, tmp_path / "counted.parquet")
    table = written.to_pandas()
    paper = rows_of(table, part="paper").set_index("method")
    assert paper.loc["vanilla-icl", "flops"] == 2.38e12
    assert paper.loc["mend", "peak_memory_bytes"] == 360_000_000
    assert set(table["context_tokens"]) == {469, 100}
    assert set(rows_of(table, part="total")["device"]) == {"counted"}
    assert paper_records("t5-lm-large") == paper_records(None) == []

    twice = [tmp_path / "counted.parquet"] * 2  # two LLMs that stand for the same one
    draw_efficiency(twice, tmp_path / "figure.png", tmp_path / "figure.parquet")
    drawn = pd.read_parquet(tmp_path / "figure.parquet")
    assert len(rows_of(drawn, panel="flops", part="paper")) == 3
    assert set(rows_of(drawn, panel="seconds")["part"]) == {"paper"}
