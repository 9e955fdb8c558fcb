"""The numbers that the paper prints (MEND, ICLR 2024), as facts to set ours beside.

`table1` to `table7` and `figure3`. Scores are in per cent, and partitions and methods have this
project's names. Names changed from the paper's text: T5's language-model checkpoint is
`t5-lm-large` everywhere (table 5 calls it t5-large-lm). Which bar each number of figure 3 belongs
to was worked out from the order on the page; the average lengths in table 1 were interleaved in
the extracted text, so recompute them before trusting them. All averages in table 2 agree with their
seven partitions. Two in table 4 do not agree with their four: `mend` (43.65; the mean is 43.64) and
`finetune: without pred` (40.41; the mean is 40.01).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mend.display_names import method_display_name
from mend.errors import UserError

FOLDER = Path(__file__).parent


def paper_table(name: str) -> pd.DataFrame:
    """One table of the paper, such as `table2`; an empty cell is NaN.

    Raises UserError if there is no such table.
    """
    names = sorted(path.stem for path in FOLDER.glob("*.csv"))
    if name not in names:
        raise UserError(f"the paper has no table named {name!r} here; choose {', '.join(names)}")
    return pd.read_csv(FOLDER / f"{name}.csv", keep_default_na=False, na_values=[""])


_STUDIES = ("table2", "table3", "table4", "table6", "table7")
_TABLE3 = {
    "no_perturbation": "no perturbation",
    "bm25_knn": "BM25",
    "dense_knn": "dense",
    "no_label": "no label",
    "no_input": "no input",
    "random_label": "random label",
    "wrong_label": "wrong label",
}
_TABLE4 = {
    "pretrain: none": "No pretraining",
    "pretrain: clm": "CLM",
    "pretrain: clm + distill": "CLM + distillation",
    "finetune: without pred": "Without prediction loss",
    "finetune: without distill": "Without distillation",
}
_TABLE7 = ("whitespace", "newline")


def paper_llms() -> list[str]:
    """The paper's LLMs, of its tables 2 and 6."""
    return list(dict.fromkeys([*paper_table("table2")["llm"], *paper_table("table6")["llm"]]))


def paper_numbers(name: str) -> pd.DataFrame:
    """A table of the paper in the long form of a study, to be joined with ours.

    Columns: llm, run, the axis (table 3: demonstrations, table 7: template; the others have none),
    partition, mean, std (per cent; NaN where the paper gives none). Tables 3, 4 and 7 are GPT-2
    large's, and tables 3, 6 and 7 of the partition class_to_class, as their captions say. In table
    6 a std that is empty is one that the paper does not print. Raises UserError for another table.
    """
    if name not in _STUDIES:
        raise UserError(f"paper: {name!r} is none of {', '.join(_STUDIES)}")
    table = paper_table(name)
    table["run"] = table["method"].map(
        lambda method: _TABLE4.get(method, method_display_name(method))
    )
    if name == "table3":
        long = table.melt(["run"], list(_TABLE3), "demonstrations", "mean")
        long["demonstrations"] = long["demonstrations"].map(_TABLE3)
    elif name == "table4":
        long = table.drop(columns="method").melt(["run"], var_name="partition", value_name="mean")
    elif name == "table7":
        parts = [
            table[["run"]].assign(template=value, mean=table[value], std=table[f"{value}_std"])
            for value in _TABLE7
        ]
        long = pd.concat(parts, ignore_index=True)
    else:
        long = table
    given = {"llm": "gpt2-large", "partition": "class_to_class", "std": float("nan")}
    long = long.assign(**{key: value for key, value in given.items() if key not in long})
    axis = [key for key in ("demonstrations", "template") if key in long]
    return long[["llm", "run", *axis, "partition", "mean", "std"]]
