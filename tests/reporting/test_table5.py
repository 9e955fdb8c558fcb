"""Table 5: the settings in force, and whose they are."""

import re

import pandas as pd
import pytest

from mend.configuration.specs.reporting import Table5Spec
from mend.errors import UserError
from mend.reporting.tables.table5 import write_table5


def specification():
    def run(method, stage, **settings):
        return {"llm": "a <b>llm", "method": method, "stage": stage, "settings": settings}

    return {
        "runs": [
            run("prompt-tuning", "finetune", learning_rate=0.01, steps=200, int8=False),
            run("mend", "pretrain", beta=0.8, betas=[0.9, 0.98], early_stopping=None),
            run("mend", "finetune", learning_rate=1e-4, steps=200, **{"losses.distill": 1.0}),
        ],
        "seed": 7,
        "command": "snakemake",
    }


@pytest.fixture
def write(tmp_path):
    def write_files(spec):
        out = [tmp_path / f"table5.{kind}" for kind in ("csv", "parquet", "html")]
        write_table5(Table5Spec(**spec), *out)
        return out

    return write_files


def cells(page, stage):
    """Texts of a stage's rows by hyperparameter."""
    part = page[page.index(f'aria-label="{stage}"') :]
    rows = re.findall(r"<tr>.*?</tr>", part[: part.index("</table>")], re.DOTALL)
    texts = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    plain = [[re.sub(r"<.*?>|\s+", " ", text).split() for text in row] for row in texts]
    return {" ".join(name): [" ".join(text) for text in rest] for name, *rest in plain}


def test_what_dev_scores_choose_is_told_with_its_candidates(write):
    spec = specification()
    spec["runs"][2]["candidates"] = {"losses.distill": [0.01, 0.1, 1, 10]}
    csv, _, html = write(spec)
    table = pd.read_csv(csv).query("source == 'here' and method == 'mend' and stage == 'finetune'")
    told = table.set_index("hyperparameter")["value"]
    assert told["losses.distill"] == "the best on dev rows of 0.01, 0.1, 1, 10"
    assert told["learning_rate"] == "0.0001"
    assert "the best on dev rows of 0.01, 0.1, 1, 10" in html.read_text()


def test_what_methods_share_is_said_once(write):
    csv, parquet, html = write(specification())
    page = html.read_text()
    finetuning = cells(page, "finetune")
    assert finetuning["learning rate"][0] == "Prompt tuning: 0.01 MEND: 0.0001"
    assert finetuning["steps"] == ["200", "30000", "30000", "30000"]
    assert finetuning["losses: distill"][:2] == ["MEND: 1", "0.01,0.1,1,10"]
    assert "beta (β)" not in finetuning
    pretraining = cells(page, "pretrain")
    assert pretraining["beta (β)"][:2] == ["0.8", "0.1,0.5,0.8,0.9"]
    assert pretraining["betas of AdamW"][:2] == ["0.9, 0.98", "adamW"]
    assert pretraining["early stopping"] == ["none", "–", "–", "–"]
    assert page.index("Pretraining") < page.index("Finetuning")
    assert "a &lt;b&gt;llm" in page
    assert "<b>" not in page
    table = pd.read_csv(csv, dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(table, pd.read_parquet(parquet), check_dtype=False)
    assert [
        "here",
        "finetune",
        "a <b>llm",
        "mend",
        "losses.distill",
        "1",
    ] in table.to_numpy().tolist()


def test_every_hyperparameter_of_the_paper_is_there(write):
    table = pd.read_csv(write(specification())[0])
    paper = table[table["source"] == "paper"]
    assert paper["hyperparameter"].nunique() == 9
    assert len(paper) == 6 * 8  # each stage lacks one


def test_a_table_of_nothing_is_refused(write):
    with pytest.raises(UserError, match="none of the methods"):
        write({**specification(), "runs": []})
