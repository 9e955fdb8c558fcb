"""What claims compare, and that both configurations claim what the paper does."""

import pytest
import yaml
from helpers.configurations import ROOT

from mend.configuration.claims import Claim
from mend.configuration.loading import load_configuration
from mend.configuration.paths import parse_settings
from mend.configuration.runs import study_runs
from mend.errors import UserError
from mend.paper import paper_table

CONFIGURATIONS = ("config.yaml", "config/paper.yaml")


@pytest.fixture(params=CONFIGURATIONS)
def configured(request, monkeypatch):
    """The values of a configuration, and the name of its file."""
    monkeypatch.chdir(ROOT)
    return yaml.safe_load((ROOT / request.param).read_text(encoding="utf-8")), request.param


@pytest.mark.parametrize(
    ("higher", "lower", "pairs", "listed"),
    [
        ({"run": "a"}, {"run": "b"}, [({"run": "a"}, {"run": "b"})], set()),
        ({"k": 4}, {"k": [1, 2]}, [({"k": 4}, {"k": 1}), ({"k": 4}, {"k": 2})], {"k"}),
        ({"k": [2, 4]}, {"k": [1, 2]}, [({"k": 2}, {"k": 1}), ({"k": 4}, {"k": 2})], {"k"}),
        (
            {"run": ["a", "b"], "k": 1},
            {"run": "c", "k": [2, 3]},
            [
                ({"run": "a", "k": 1}, {"run": "c", "k": 2}),
                ({"run": "b", "k": 1}, {"run": "c", "k": 3}),
            ],
            {"run", "k"},
        ),
    ],
)
def test_lists_of_a_claim_go_together(higher, lower, pairs, listed):
    claim = Claim(text="a", higher=higher, lower=lower)
    assert claim.pairs() == pairs
    assert claim.listed_axes == listed


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(UserError, match="value by value, but here they have 2 and 3 values"):
        Claim(text="a", higher={"k": [1, 2]}, lower={"k": [1, 2, 3]}).pairs()


def test_every_claim_of_the_paper_is_one_that_something_judges(configured):
    listed = {(row["study"], row["text"]) for row in paper_table("claims").to_dict("records")}
    studies = configured[0]["studies"].items()
    made = {(name, claim["text"]) for name, s in studies for claim in s.get("claims", ())}
    made |= {("figure3", claim["text"]) for claim in configured[0]["efficiency"]["claims"]}
    assert {key for key in listed if key[0] not in ("figure5", "families")} <= made
    of_the_paper = {study for study, _ in listed}
    assert {key for key in made if key[0] in of_the_paper} <= listed


def test_both_configurations_have_the_same_studies_and_the_papers_values():
    pocket, paper = (yaml.safe_load((ROOT / name).read_text()) for name in CONFIGURATIONS)
    # Table 2 of the pocket models has three of the seven partitions, and several training seeds.
    more = {"partitions", "compressors", "many-shot"}
    assert pocket["studies"].keys() == paper["studies"].keys() | more
    assert pocket["studies"]["table2"].pop("vary").keys() == {"training.seed"}
    assert pocket["figures"] == paper["figures"]
    for name, study in paper["studies"].items():
        of_pocket = pocket["studies"][name]
        assert study.get("vary", {}).keys() == of_pocket.get("vary", {}).keys()
        assert study.get("methods") == of_pocket.get("methods")
    varied = {
        name: study["vary"][axis]
        for name, study in paper["studies"].items()
        for axis in study.get("vary", {})
    }
    assert varied["shots"] == [1, 2, 4, 8, 16]
    assert varied["length"] == [1, 10, 50, 100, 200]
    assert varied["beta"] == [0.2, 0.4, 0.8, 0.9]
    assert [*varied["gamma"]] == ["0.01", "0.1", "1", "10"]
    assert varied["lambda"] == [0.01, 0.1, 1, 10]
    assert [*varied["table3"]] == [
        *("no perturbation", "BM25", "dense"),
        *("no label", "no input", "random label", "wrong label"),
    ]
    assert {*paper["studies"]["table6"]["llms"]} == {"opt-6.7b", "flan-t5-xl"}


@pytest.mark.parametrize("study", ["table2", "table6", "lambda"])
def test_t5_is_in_the_studies_that_have_it_in_the_paper(configured, study):
    values, file = configured
    stand_for = {values["llms"][name]["paper_llm"] for name in values["studies"][study]["llms"]}
    kinds = {name.split("-")[0] for name in stand_for}
    of_table6 = {"config.yaml": {"t5", "opt"}, "config/paper.yaml": {"flan", "opt"}}[file]
    assert kinds == (of_table6 if study == "table6" else {"gpt2", "t5"})


def test_table_3_has_the_papers_number_of_demonstrations_and_a_study_has_fewer(configured):
    values, file = configured
    configuration = load_configuration(values, [file])
    shots = {
        name: {parse_settings(run.condition)["shots"] for run in study_runs(configuration, name)}
        for name in ("table3", "table3-few")
    }
    assert shots == {"table3": {16}, "table3-few": {4}}


def test_what_is_read_is_compared_without_runs_of_its_own(configured):
    values, file = configured
    configuration = load_configuration(values, [file])
    folders = {
        name: {run.folder for run in study_runs(configuration, name)}
        for name in ("shots", "length", "context-length", "table2")
    }
    others = folders["shots"] | folders["length"] | folders["table2"]
    assert folders["context-length"] <= others
    # Zero-shot, every K of vanilla ICL, and every l of three methods.
    assert len(folders["context-length"]) == 1 + 5 + 3 * 5
