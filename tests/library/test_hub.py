"""Methods and contexts on the hub: what is sent, what is fetched, and the cards."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from helpers.trained import trained_run

import mend

SHOWN = [("w1 w2", "w50"), ("w3 w4", "w51 w52")]


class Hub:
    """A hub that is a folder: it stands in for the real one, which tests cannot reach."""

    folder: Path

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, name: str, private: bool | None, exist_ok: bool) -> None:
        assert exist_ok
        (self.folder / name).mkdir(parents=True)

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> str:
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)
        return f"commit: {commit_message}"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """The folder of a hub in the real one's place."""
    monkeypatch.setattr(Hub, "folder", tmp_path / "hub", raising=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)

    def download(name: str, **options) -> str:
        assert options["revision"] == "v1"
        assert not any(pattern.endswith((".bin", ".py")) for pattern in options["allow_patterns"])
        return str(tmp_path / "hub" / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def distiller(data: Path, tmp_path_factory) -> mend.Distiller:
    folder = tmp_path_factory.mktemp("distiller")
    trained_run(data, folder)
    return mend.Distiller.from_pretrained(folder / "run")


def test_what_is_pushed_comes_back(distiller: mend.Distiller, hub: Path) -> None:
    context = distiller.distill(SHOWN)
    told = distiller.push_to_hub("somebody/distiller", base_model="somebody/llm", licence="mit")
    assert told == "commit: Upload MEND"
    context.push_to_hub("somebody/context")
    again = mend.Distiller.from_pretrained("somebody/distiller", distiller.llm, revision="v1")
    assert again.score(context, ["w1"], ["w2", "w3"]) == distiller.score(
        context, ["w1"], ["w2", "w3"]
    )
    fetched = mend.Context.from_pretrained("somebody/context", distiller.llm, revision="v1")
    assert fetched.demonstrations == context.demonstrations
    card = (hub / "somebody/distiller/README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["base_model"] == "somebody/llm"
    assert header["license"] == "mit"
    modes = {path.stat().st_mode & 0o777 for path in (hub / "somebody/distiller").iterdir()}
    assert len(modes) == 1


def test_an_llm_that_others_do_not_have_is_not_pushed(distiller, hub: Path) -> None:
    with pytest.raises(mend.UserError, match="name it on the hub with base_model"):
        distiller.push_to_hub("somebody/distiller")
    assert not hub.exists()


def test_a_hub_that_refuses_is_told(distiller: mend.Distiller, hub: Path, monkeypatch) -> None:
    def refuse(*_, **__):
        raise OSError("403 Forbidden\nYou may not")

    monkeypatch.setattr(Hub, "create_repo", refuse)
    with pytest.raises(mend.UserError, match=r"somebody/context: the hub did not take it \(.*403"):
        distiller.distill(SHOWN).push_to_hub("somebody/context")
    with pytest.raises(mend.UserError, match="the hub's names are"):
        distiller.distill(SHOWN).push_to_hub("not a name")


TABLE = """llm,method,partition,mean,std,ci_low,ci_high,tasks,seeds,training_seeds
gpt2,mend,all,41.25,1.0,38.5,44.0,4,5,3
gpt2,vanilla-icl,all,99.0,1.0,98.5,99.5,4,5,3
gpt2,mend,qa_to_qa,99.0,1.0,98.5,99.5,4,5,3
t5,mend,all,99.0,1.0,98.5,99.5,4,5,3
"""


def test_a_card_has_the_facts_and_the_scores(distiller: mend.Distiller, tmp_path) -> None:
    (tmp_path / "table2.csv").write_text(TABLE, encoding="utf-8")
    distiller.save_pretrained(tmp_path / "saved", scores=tmp_path / "table2.csv")
    card = (tmp_path / "saved/README.md").read_text(encoding="utf-8")
    assert "| gpt2 | all | 41.2 | 38.5 to 44.0 |" in card
    assert "99.0" not in card
    for fact in ("| vectors (l) | 2 |", "| trained on | parity |", "(K) in training | 3 |"):
        assert fact in card
    # They are kept, and come with what is saved again, whatever the LLM is called by then.
    again = mend.Distiller.from_pretrained(tmp_path / "saved", llm=distiller.llm.source.path)
    again.save_pretrained(tmp_path / "again")
    assert "38.5 to 44.0" in (tmp_path / "again/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a,b\n1,2\n", "no column llm"),
        (TABLE.replace("mend", "other"), "no row of mend with gpt2 and all"),
        (TABLE.replace("gpt2", "other"), "no row of mend with gpt2"),
        (TABLE.replace("41.25", "high"), "high"),
    ],
)
def test_a_table_that_is_none_is_told(distiller, content: str, told: str, tmp_path) -> None:
    (tmp_path / "table.csv").write_text(content, encoding="utf-8")
    with pytest.raises(mend.UserError, match=told):
        distiller.save_pretrained(tmp_path / "saved", scores=tmp_path / "table.csv")
    assert not (tmp_path / "saved").exists()


def test_a_name_cannot_leave_its_cell(distiller: mend.Distiller, tmp_path) -> None:
    bad = "a|b\n<script>alert(1)</script>"
    distiller.save_pretrained(tmp_path / "saved", base_model=bad)
    card = (tmp_path / "saved/README.md").read_text(encoding="utf-8")
    assert "<script>" not in card.split("---\n")[2]
    assert "a\\|b &lt;script&gt;" in card
