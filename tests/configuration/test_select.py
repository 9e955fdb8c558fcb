"""Candidates for training settings: what is trained, what is predicted, and what is refused."""

from __future__ import annotations

import pytest
from helpers.configurations import ROOT, default_values

from mend.configuration.job_specs import specification
from mend.configuration.loading import Configuration, load_configuration
from mend.configuration.report_spec import report_files
from mend.configuration.runs import (
    candidate_folders,
    candidates,
    study_points,
    study_runs,
    trained_stages,
    usual_variant,
    weights_folder,
)
from mend.configuration.study_specs import study_choices, study_stages
from mend.errors import UserError

LLM = "pocket-gpt2"
LAMBDAS = [0.01, 0.1, 1, 10]
CHOSEN = "finetune.losses.distill=0.01~0.1~1~10"
RUNS = f"runs/{LLM}/mend"


@pytest.fixture
def values(tmp_path, monkeypatch) -> dict:
    monkeypatch.chdir(ROOT)
    values = default_values(tmp_path)
    values["studies"]["table2"]["partitions"] = ["qa_to_qa", "hr_to_lr"]
    return values


def with_select(values: dict, select: dict | None, method: str = "mend", **study) -> Configuration:
    """Load the configuration with candidates for a method, and a study `mine` besides."""
    values["methods"][method]["select"] = select
    if study:
        mine = {"llms": [LLM], "partitions": ["qa_to_qa"], "methods": [method], **study}
        if "runs" in study:
            del mine["methods"]
        values["studies"]["mine"] = mine
    return load_configuration(values)


def variants(configuration: Configuration, study: str) -> list[str]:
    return [point.variant for point in study_points(configuration.values, study)]


def test_candidates_are_trained_and_the_chosen_one_alone_is_predicted(values) -> None:
    configuration = with_select(values, {"finetune.losses.distill": LAMBDAS})
    runs = [run for run in study_runs(configuration, "table2") if run.method == "mend"]
    assert [run.folder for run in runs] == [
        f"{RUNS}/{CHOSEN}/{name}/shots=16" for name in ("qa_to_qa", "hr_to_lr")
    ]
    place = (configuration.values, LLM, "mend", CHOSEN, "qa_to_qa")
    trained = [
        f"{RUNS}/{variant}/qa_to_qa/finetune"
        for variant in (
            "finetune.losses.distill=0.01",
            "finetune.losses.distill=0.1",
            "default",  # lambda is 1 as configured: the very run of a study without candidates
            "finetune.losses.distill=10",
        )
    ]
    assert candidate_folders(*place) == trained
    # They share their pretraining.
    assert sorted(trained_stages(*place)) == sorted([f"{RUNS}/default/pretrain", *trained])
    assert weights_folder(*place) == f"{RUNS}/{CHOSEN}/qa_to_qa/chosen"
    assert weights_folder(configuration.values, LLM, "mend", "default", "qa_to_qa") == trained[2]
    assert weights_folder(configuration.values, LLM, "zero-shot", "default", "all") is None


def test_the_choice_is_told_its_candidates_in_their_order(values) -> None:
    select = {"finetune.losses.distill": [10, 1], "length": [4, 16]}
    configuration = with_select(values, select)
    variant = usual_variant(configuration.values, LLM, "mend")
    assert variant == "finetune.losses.distill=10~1,length=4~16"
    spec = specification(configuration, f"{RUNS}/{variant}/qa_to_qa/chosen")
    assert [(one.variant, one.settings) for one in spec.candidates] == [
        (
            "finetune.losses.distill=10,length=4",
            {"finetune.losses.distill": 10, "length": 4},
        ),
        ("finetune.losses.distill=10", {"finetune.losses.distill": 10, "length": 16}),
        ("length=4", {"finetune.losses.distill": 1, "length": 4}),
        ("default", {"finetune.losses.distill": 1, "length": 16}),
    ]
    with pytest.raises(UserError, match="nothing is to be chosen"):
        specification(configuration, f"{RUNS}/default/qa_to_qa/chosen")


def test_every_candidate_is_in_the_costs_and_every_choice_in_the_report(values) -> None:
    configuration = with_select(values, {"finetune.losses.distill": LAMBDAS})
    stages = study_stages(configuration, "table2")
    assert sum(stage.startswith(f"{RUNS}/") for stage in stages) == 1 + 2 * 4
    choices = [f"{RUNS}/{CHOSEN}/{name}/chosen" for name in ("qa_to_qa", "hr_to_lr")]
    assert study_choices(configuration, "table2") == choices
    assert {f"{choice}/record.json" for choice in choices} <= set(report_files(configuration))


def test_a_study_fixes_what_it_sweeps_or_sets(values) -> None:
    select = {"finetune.losses.distill": LAMBDAS, "finetune.learning_rate": [1e-4, 1e-3]}
    rates = "finetune.learning_rate=0.0001~0.001"
    configuration = with_select(values, select, vary={"finetune.losses.distill": [0.1, 1]})
    assert variants(configuration, "mine") == [f"{rates},finetune.losses.distill=0.1", rates]
    configuration = with_select(
        values, select, set={key: of_key[1] for key, of_key in select.items()}
    )
    assert variants(configuration, "mine") == [
        "finetune.learning_rate=0.001,finetune.losses.distill=0.1"
    ]
    runs = {"fixed": {"method": "mend", "finetune.losses.distill": 0.0}, "not": {"method": "mend"}}
    configuration = with_select(values, select, runs=runs)
    assert variants(configuration, "mine") == [
        f"{rates},finetune.losses.distill=0",
        f"{rates},{CHOSEN}",
    ]
    configuration = with_select(values, select, set={"pretrain": "none"})
    assert variants(configuration, "mine") == [f"{rates},{CHOSEN},pretrain=none"]


def test_a_studys_candidates_are_for_the_methods_that_have_the_setting(values) -> None:
    values["studies"]["table2"]["select"] = {"finetune.losses.distill": [0.1, 1]}
    configuration = load_configuration(values)
    # HyperTuning is finetuned too, but never with this loss.
    assert set(variants(configuration, "table2")) == {"default", "finetune.losses.distill=0.1~1"}
    assert usual_variant(configuration.values, LLM, "mend") == "finetune.losses.distill=0.1~1"
    # A study's stand over the method's own.
    values["methods"]["mend"]["select"] = {"finetune.losses.distill": LAMBDAS}
    configuration = load_configuration(values)
    assert usual_variant(configuration.values, LLM, "mend") == "finetune.losses.distill=0.1~1"


def test_a_run_without_finetuning_is_chosen_by_its_pretraining(values) -> None:
    stopping = {"every": 50, "patience": 5, "rows_per_task": 4, "seed": 100}
    values["training"]["pretrain"]["early_stopping"] = {**stopping, "partition": "class_to_class"}
    configuration = with_select(
        values, {"pretrain.beta": [0.5, 0.8]}, set={"finetune": "none"}, score="mean"
    )
    (run,) = study_runs(configuration, "mine")
    assert (run.variant, run.partition) == ("finetune=none,pretrain.beta=0.5~0.8", "all")
    place = (configuration.values, LLM, "mend", run.variant, "all")
    assert candidate_folders(*place) == [
        f"{RUNS}/pretrain.beta=0.5/pretrain",
        f"{RUNS}/default/pretrain",
    ]
    # Each candidate has its own teacher's states, of its own part of the chunks.
    for beta in ("0.5", "0.8"):
        teacher = specification(configuration, f"data/teacher/{LLM}/pretrain/beta={beta}").teacher
        assert teacher.examples == 1000 * 16


def test_each_training_seed_chooses_for_itself(values) -> None:
    select = {"finetune.losses.distill": [0.1, 1]}
    configuration = with_select(values, select, vary={"training.seed": [0, 3]})
    second = "finetune.losses.distill=0.1~1,training.seed=3"
    assert variants(configuration, "mine") == ["finetune.losses.distill=0.1~1", second]
    found = candidates(configuration.values, LLM, "mend", second)
    assert list(found) == ["finetune.losses.distill=0.1,training.seed=3", "training.seed=3"]


def test_table_5_says_what_is_chosen(values) -> None:
    configuration = with_select(values, {"finetune.losses.distill": LAMBDAS, "length": [4, 16]})
    stages = {
        stage.stage: stage.candidates
        for stage in specification(configuration, "table5").runs
        if stage.method == "mend"
    }
    assert stages == {
        "pretrain": {"length": [4, 16]},
        "finetune": {"losses.distill": LAMBDAS, "length": [4, 16]},
    }


def test_attention_is_of_the_chosen_mend(values) -> None:
    values["attention"] = {"llms": [LLM], "partition": "qa_to_qa"}
    values["studies"]["table2"]["methods"] = ["prompt-tuning"]
    configuration = with_select(values, {"finetune.losses.distill": [0.1, 1]})
    files = report_files(configuration)
    for variant in ("finetune.losses.distill=0.1", "default"):
        assert f"{RUNS}/{variant}/qa_to_qa/finetune/record.json" in files


def test_a_file_that_is_added_can_have_nothing_chosen(values) -> None:
    configuration = with_select(values, None)
    assert usual_variant(configuration.values, LLM, "mend") == "default"


@pytest.mark.parametrize(
    ("method", "select", "words"),
    [
        ("mend", {"lenght": [1, 2]}, "methods.mend.select.lenght: unknown key.*mean length"),
        ("mend", {"shots": [1, 2]}, "methods.mend.select.shots: unknown key"),
        ("mend", {"training.seed": [1, 2]}, "methods.mend.select.training.seed: unknown key"),
        ("mend", {"length": 4}, "methods.mend.select.length: 4 is not a list"),
        ("mend", {"length": [4]}, r"methods.mend.select.length: \[4\] is too short"),
        (
            "mend",
            {"length": [4, 0]},
            r"methods.mend.select.length\[1\]: 0 is not allowed.*at least",
        ),
        (
            "mend",
            {"length": [4, 4]},
            r"methods.mend.select.length: \[4, 4\] .* holds something twice",
        ),
        ("mend", {"length": [4, 300]}, r"length \(l\) is 300"),
        (
            "prompt-tuning",
            {"pretrain.beta": [0.5, 0.8]},
            "methods.prompt-tuning.select.pretrain.beta: prompt-tuning is not trained with this "
            "setting.*leave it out",
        ),
        (
            "hypertuning",
            {"finetune.losses.distill": [0.5, 1]},
            "methods.hypertuning.select.finetune.losses.distill: .* with this loss",
        ),
    ],
)
def test_candidates_that_cannot_be_are_told(values, method, select, words) -> None:
    with pytest.raises(UserError, match=words):
        with_select(values, select, method)


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (
            {"select": {"length": [4, 8]}, "set": {"length": 4}},
            "select.length: set says what it is",
        ),
        (
            {"select": {"length": [4, 8]}, "vary": {"length": [4, 8]}},
            "select.length: vary says what it is",
        ),
        (
            {
                "select": {"finetune.losses.distill": [1, 0]},
                "set": {"finetune.losses.pred": 0},
            },
            r"all weights of finetune.losses of mend with pocket-gpt2 are 0 "
            r"\(finetune.losses.distill=0,finetune.losses.pred=0\)",
        ),
        (
            {"select": {"length": [4, 8]}, "methods": ["zero-shot"]},
            "select.length: no run of the study is trained with it",
        ),
        (
            {"select": {"length": [4, 8]}, "set": {"finetune": "none"}},
            r"dev scores are to choose length of mend with pocket-gpt2 \(select\), and "
            r"training.pretrain.early_stopping is null.*set it, such as \{every",
        ),
    ],
)
def test_studies_that_cannot_choose_are_told(values, study, words) -> None:
    mine = {"llms": [LLM], "partitions": ["qa_to_qa"], "methods": ["mend"], **study}
    values["studies"]["mine"] = mine
    with pytest.raises(UserError, match=f"studies.mine(.|: ){words}"):
        load_configuration(values)


def test_without_early_stopping_table_2_cannot_choose(values) -> None:
    values["training"]["finetune"]["early_stopping"] = None
    with pytest.raises(
        UserError, match=r"studies.table2: .*training.finetune.early_stopping is null"
    ):
        with_select(values, {"finetune.losses.distill": LAMBDAS})
