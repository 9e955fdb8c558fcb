"""Runs and studies: what a run is called, what studies share, and what cannot be asked for."""

from __future__ import annotations

import pytest
from helpers.configurations import ROOT, default_values

from mend.configuration.job_specs import specification
from mend.configuration.loading import load_configuration
from mend.configuration.paths import (
    JobPath,
    parse_job_path,
    parse_settings,
    pretraining_variant,
    sampling_of,
    settings_text,
)
from mend.configuration.runs import method_setup, study_points, study_runs, trained_stages
from mend.configuration.teachers import teacher_of
from mend.errors import UserError

LLM = "pocket-gpt2"


@pytest.fixture
def values(tmp_path, monkeypatch) -> dict:
    monkeypatch.chdir(ROOT)
    return default_values(tmp_path)


def with_study(values: dict, **content) -> dict:
    study = {"llms": [LLM], "partitions": ["qa_to_qa"], "methods": ["mend"], **content}
    if "runs" in content:
        del study["methods"]
    return {**values, "studies": {**values["studies"], "mine": study}}


def points(values: dict, **content) -> list[tuple]:
    configuration = load_configuration(with_study(values, **content))
    return [point[1:4] for point in study_points(configuration.values, "mine")]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"length": 4},
        {"pretrain": None, "finetune.learning_rate": 1e-5, "finetune.schedule": "cosine"},
        {"pretrain.losses.distill": 0.01, "pretrain.beta": 0.8},
        {"pretrain.beta": 0.6666667, "finetune.learning_rate": 1.0000001e-5},
    ],
)
def test_settings_can_be_read_back_from_a_path(settings) -> None:
    text = settings_text(settings)
    assert parse_settings(text) == settings
    assert "/" not in text


@pytest.mark.parametrize(
    "job",
    [
        JobPath("chunks", "gpt2"),
        JobPath("evaluation-episodes", sampling="selection=bm25,shots=4", split="test"),
        JobPath("teacher", "gpt2", stage="pretrain", beta=0.6666667),
        JobPath("teacher", "gpt2", stage="pretrain", beta=0.8, seed=3),
        JobPath("teacher", "gpt2", stage="finetune", partition="qa_to_qa"),
        JobPath("train", "gpt2", "mend", "length=4", stage="pretrain"),
        JobPath("train", "gpt2", "mend", "length=4", "qa_to_qa", stage="finetune"),
        JobPath("predict", "gpt2", "mend", "default", "all", "group=8,shots=16"),
        JobPath("study", study="table3"),
    ],
)
def test_a_jobs_path_can_be_read_back(job) -> None:
    assert parse_job_path(str(job)) == job


def test_axes_are_crossed_and_runs_named_by_what_differs(values) -> None:
    assert points(values, vary={"length": [4, 16], "shots": [1, 16]}) == [
        ("mend", "length=4", "shots=1"),
        ("mend", "length=4", "shots=16"),
        ("mend", "default", "shots=1"),
        ("mend", "default", "shots=16"),
    ]


def test_what_a_run_fixes_is_not_varied(values) -> None:
    runs = {"varied": {"method": "mend"}, "fixed": {"method": "mend", "length": 4}}
    found = points(values, runs=runs, set={"length": 3}, vary={"length": [1, 2]})
    assert [variant for _, variant, _ in found] == [f"length={n}" for n in (1, 2, 4, 4)]


def test_settings_that_a_method_does_not_have_change_nothing(values) -> None:
    found = points(
        values,
        methods=["zero-shot", "vanilla-icl", "prompt-tuning"],
        set={"length": 4, "pretrain.steps": 9, "finetune.losses.distill": 0.5},
    )
    assert found == [
        ("zero-shot", "default", "shots=16"),
        ("vanilla-icl", "default", "shots=16"),
        ("prompt-tuning", "finetune.losses.distill=0.5,length=4", "shots=16"),
    ]


def test_what_is_configured_anyway_is_no_difference(values) -> None:
    configured = {
        "finetune.losses.distill": 1.0,
        "pretrain.losses.clm": 0,
        "selection": "train",
        "perturbation": "none",
        "pretrain.beta": 0.8,
    }
    assert points(values, set=configured) == [("mend", "default", "shots=16")]


def test_named_settings_make_an_axis(values) -> None:
    named = {"random": {}, "no label": {"perturbation": "no-label"}, "BM25": {"selection": "bm25"}}
    configuration = load_configuration(with_study(values, vary={"demonstrations": named}))
    found = [
        (point.condition, point.values["demonstrations"])
        for point in study_points(configuration.values, "mine")
    ]
    assert found == [
        ("shots=16", "random"),
        ("perturbation=no-label,shots=16", "no label"),
        ("selection=bm25,shots=16", "BM25"),
    ]


def test_training_seeds_train_anew_what_is_trained(values) -> None:
    methods = ["zero-shot", "vanilla-icl", "prompt-tuning", "mend"]
    study = with_study(values, methods=methods, vary={"training.seed": [0, 3], "shots": [1, 16]})
    configuration = load_configuration(study)
    # Seed 0 is as configured; what is not trained is one run, predicted once.
    found = [(run.method, run.variant) for run in study_runs(configuration, "mine")]
    assert found == [
        ("zero-shot", "default"),
        ("zero-shot", "default"),
        *([("vanilla-icl", "default")] * 2),
        *([("prompt-tuning", "default"), ("prompt-tuning", "training.seed=3")] * 2),
        *([("mend", "default"), ("mend", "training.seed=3")] * 2),
    ]
    run = study_runs(configuration, "mine")[-1]
    place = (LLM, "mend", run.variant, "qa_to_qa")
    stages = trained_stages(configuration.values, *place)
    assert stages == [
        f"runs/{LLM}/mend/training.seed=3/pretrain",
        f"runs/{LLM}/mend/training.seed=3/qa_to_qa/finetune",
    ]
    assert [specification(configuration, stage).training.seed for stage in stages] == [3, 3]
    usual = specification(configuration, f"runs/{LLM}/mend/default/qa_to_qa/finetune")
    assert usual.training.seed == 0
    # Episodes are the benchmark's, the same for all.
    assert specification(configuration, "data/episodes/train/qa_to_qa").seed == 0


def test_a_teachers_states_are_in_the_order_of_their_training_seed(values) -> None:
    vary = {"training.seed": [0, 3], "pretrain.steps": [50, 60]}
    configuration = load_configuration(with_study(values, vary=vary))
    jobs = {
        seed: teacher_of(configuration.values, JobPath("train", LLM, "mend", v, stage="pretrain"))
        for seed, v in ((0, "default"), (3, "pretrain.steps=60,training.seed=3"))
    }
    assert {seed: str(job) for seed, job in jobs.items()} == {
        0: f"data/teacher/{LLM}/pretrain/beta=0.8",
        3: f"data/teacher/{LLM}/pretrain/beta=0.8,seed=3",
    }
    for seed, job in jobs.items():
        teacher = specification(configuration, str(job)).teacher
        assert (teacher.seed, teacher.examples) == (seed, {0: 1000, 3: 60}[seed] * 16)


@pytest.mark.parametrize("study", ["mine", "table2"])
def test_a_table_is_told_its_training_seeds(values, study) -> None:
    values = with_study(values, methods=["zero-shot", "mend"])
    values["studies"][study] = {**values["studies"][study], "vary": {"training.seed": [3, 0]}}
    spec = specification(load_configuration(values), study)
    assert spec.training_seeds == [3, 0]
    assert list(spec.axis_values) == ["run"]
    found = [(run.method, run.variant, run.training_seed) for run in spec.runs]
    assert [row for row in found if row[0] in ("zero-shot", "mend")] == [
        ("zero-shot", "default", 3),
        ("zero-shot", "default", 0),
        ("mend", "training.seed=3", 3),
        ("mend", "default", 0),
    ]


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (
            {"vary": {"training.seed": [1, 1]}},
            r"vary.training.seed: \[1, 1\] .* holds something twice",
        ),
        ({"vary": {"training.seed": [-1, 1]}}, r"vary.training.seed: -1: seeds are whole numbers"),
        ({"vary": {"training.seed": []}}, r"vary.training.seed: must not be empty"),
        (
            {"vary": {"training.seed": {"one": {"training.seed": 1}}}},
            r"vary.training.seed: .* no names; write \[0, 1, 2\]",
        ),
        (
            {"vary": {"training.seed": [0, 1]}, "reference": {"training.seed": 0}},
            "reference: there is no axis training.seed; there are run",
        ),
        (
            {"layout": "matrix", "vary": {"training.seed": [0, 1], "shots": [1, 2]}},
            "vary: its rows are methods as they are configured.*or vary training.seed alone",
        ),
    ],
)
def test_training_seeds_that_cannot_be_are_told(values, study, words) -> None:
    with pytest.raises(UserError, match=f"studies.mine.{words}"):
        load_configuration(with_study(values, **study))


def test_runs_that_differ_in_finetuning_share_their_pretraining(values) -> None:
    configuration = load_configuration(
        with_study(values, vary={"finetune.losses.distill": [0, 1]}, set={"length": 4})
    )
    stages = [
        trained_stages(configuration.values, run.llm, run.method, run.variant, run.partition)
        for run in study_runs(configuration, "mine")
    ]
    assert stages[0][0] == stages[1][0] == f"runs/{LLM}/mend/length=4/pretrain"
    assert stages[0][1] != stages[1][1]
    assert pretraining_variant("finetune.losses.distill=0,length=4") == "length=4"


def test_a_stage_can_be_left_out(values) -> None:
    runs = {
        "neither": {"method": "mend", "pretrain": "none", "pretrain.beta": 0.1},
        "pretrained": {"method": "mend", "finetune": "none"},
    }
    configuration = load_configuration(with_study(values, runs=runs))
    neither, pretrained = study_runs(configuration, "mine")
    assert (neither.variant, neither.partition) == ("pretrain=none", "qa_to_qa")
    assert (pretrained.variant, pretrained.partition) == ("finetune=none", "all")
    place = (LLM, "mend", pretrained.variant, "all")
    assert trained_stages(configuration.values, *place) == [f"runs/{LLM}/mend/default/pretrain"]


def test_an_llm_has_training_settings_of_its_own(values) -> None:
    values["llms"][LLM]["training"] = {"pretrain": {"steps": 7}, "finetune": {"steps": 8}}
    values["llms"][LLM]["methods"] = {"mend": {"finetune": {"steps": 9}}}
    configuration = load_configuration(values)
    steps = {
        method: {
            stage: method_setup(configuration.values, LLM, method, "default").stages[stage].steps
            for stage in ("pretrain", "finetune")
        }
        for method in ("mend", "hypertuning")
    }
    assert steps == {
        "mend": {"pretrain": 7, "finetune": 9},
        "hypertuning": {"pretrain": 7, "finetune": 8},
    }


def test_the_condition_tells_the_sampling_and_the_prediction(values) -> None:
    values["templates"] = {"newline": {"input_output": "\n", "demonstrations": "\n\n\n"}}
    condition = "longest_context=9,perturbation=no-label,selection=pool,shots=32,template=newline"
    configuration = load_configuration({**values, "benchmark": {**values["benchmark"], "pool": 64}})
    assert sampling_of(condition) == "selection=pool,shots=32"
    episodes = specification(configuration, f"data/episodes/{sampling_of(condition)}/test")
    assert (episodes.selection, episodes.shots) == ("pool", 32)
    spec = specification(configuration, f"runs/{LLM}/vanilla-icl/default/all/{condition}/predict")
    assert spec.predict.perturbation == "no-label"
    assert spec.reading.separators.model_dump() == values["templates"]["newline"]
    assert spec.reading.longest_context.model_dump() == {"llm": 9, "distiller": 9}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"runs": {"a": {"method": "mned"}}}, "mine.runs.a.method: mned .*mean mend"),
        ({"vary": {"lenght": [1]}}, "vary.lenght.*unknown key.*mean length"),
        ({"vary": {"length": [0]}}, "length: 0 is not allowed"),
        ({"vary": {"length": 4}}, "vary.length: 4 is not allowed: give a list"),
        ({"vary": {"a": {"b": 4}}}, "needs its settings"),
        ({"vary": {"a": {"b": {"lenght": 4}}}}, "vary.a.b.lenght: unknown key"),
        ({"vary": {"run": {"b": {}}}}, "rename the axis"),
        ({"vary": {"shots": [64]}}, "64 shots, but"),
        ({"vary": {"template": ["newline"]}}, "no template newline"),
        ({"vary": {"selection": ["dense"]}}, "needs benchmark.dense_retrieval"),
        ({"set": {"pretrain": "none", "finetune": "none"}}, "neither pretrained nor finetuned"),
        (
            {"set": {"finetune.losses.distill": 0, "finetune.losses.pred": 0}},
            r"all weights of finetune.losses of mend with pocket-gpt2 are 0.*finetune: none",
        ),
        ({"methods": ["vanilla-icl"], "set": {"group": 4}}, "vanilla-icl does not distil"),
        ({"reference": {"run": "mend"}}, "mend is not one of MEND"),
        ({"reference": {"length": 1}}, "no axis length"),
        (
            {"claims": [{"text": "a", "higher": {"run": "MEND"}, "lower": {"run": "ICL"}}]},
            r"claims\[0\].lower.run: ICL is not one of MEND",
        ),
        (
            {"claims": [{"text": "a", "higher": {"run": "MEND"}, "lower": {"length": 1}}]},
            "name the same axes",
        ),
        (
            {
                "vary": {"shots": [1, 2]},
                "claims": [{"text": "a", "higher": {"shots": 1}, "lower": {"shots": [2, 3]}}],
            },
            r"claims\[0\].lower.shots: 3 is not one of 1, 2",
        ),
        (
            {
                "vary": {"shots": [1, 2]},
                "claims": [{"text": "a", "higher": {"shots": [1]}, "lower": {"shots": [2, 1]}}],
            },
            r"mine.claims\[0\]: the lists of one claim go together",
        ),
        ({"vary": {"shots": [1]}, "context_share_of": "mend"}, "share_of.run: mend is not one of"),
        ({"context_share_of": "MEND"}, "context_share_of: the study varies nothing"),
        (
            {"methods": ["zero-shot"], "pictures": ["learning-curves"]},
            "mine.pictures: learning-curves: none of its runs is trained",
        ),
        (
            {"methods": ["vanilla-icl"], "pictures": ["divergence"]},
            "mine.pictures: divergence: all of its runs read demonstrations themselves",
        ),
        (
            {"methods": ["zero-shot"], "pictures": ["costs"]},
            "mine.pictures: costs: none of its runs has a context",
        ),
        (
            {"layout": "matrix", "pictures": ["costs"], "context_share_of": "MEND"},
            "mine.context_share_of: its rows are methods as they are configured",
        ),
        ({"vary": {"break_even_queries": [1]}}, "every table has such a column"),
        ({"vary": {"context_length": [1]}}, "every table has such a column"),
        ({"vary": {"length": [300]}}, r"length \(l\) is 300"),
    ],
)
def test_a_study_that_cannot_be_made_is_refused(values, content, words) -> None:
    with pytest.raises(UserError, match=words):
        load_configuration(with_study(values, **content))


def test_a_name_that_is_taken_is_refused(values) -> None:
    study = with_study(values)["studies"]["mine"]
    values["studies"]["report"] = study
    with pytest.raises(UserError, match="report: the workflow makes something else"):
        load_configuration(values)


def test_either_methods_or_runs(values) -> None:
    study = with_study(values, runs={"a": {"method": "mend"}})
    study["studies"]["mine"]["methods"] = ["mend"]
    with pytest.raises(UserError, match="either methods or runs"):
        load_configuration(study)


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"figure9": ["minne"]}, "minne is not in studies .*mean mine"),
        ({"figure9": ["table2"]}, "varies nothing"),
        ({"mine": ["mine"]}, "mine, mine would be one file"),
    ],
)
def test_a_figure_of_no_study_is_refused(values, figures, words) -> None:
    study = with_study(values, vary={"length": [1, 2]})
    with pytest.raises(UserError, match=words):
        load_configuration({**study, "figures": figures})


@pytest.mark.parametrize(
    ("key", "value"),
    [("vary", {"length": [1, 2]}), ("set", {"length": 2}), ("reference", {"run": "MEND"})],
)
def test_a_matrix_has_methods_as_they_are_configured(values, key, value) -> None:
    values["studies"]["table2"][key] = value
    with pytest.raises(UserError, match=rf"studies\.table2\.{key}: its rows are methods"):
        load_configuration(values)


def test_a_claim_about_a_method_that_is_left_out_is_not_judged(values) -> None:
    claims = values["studies"]["table2"]["claims"]
    values["studies"]["table2"]["methods"] = ["vanilla-icl", "mend"]
    spec = specification(load_configuration(values), "table2")
    assert [claim.text for claim in spec.claims] == [claims[1]["text"]]
    claims[0]["lower"] = {"run": "Zero shot"}
    with pytest.raises(UserError, match=r"claims\[0\]\.lower\.run: Zero shot is not one of"):
        load_configuration(values)


def test_values_of_an_axis_are_text_unless_all_are_numbers(values) -> None:
    study = with_study(values, vary={"pass": {"one": {}, "2": {"shots": 2}}, "shots": [4, 16]})
    spec = specification(load_configuration(study), "mine")
    assert spec.axis_values["pass"] == ["one", "2"]
    assert spec.axis_values["shots"] == [4, 16]


def test_a_teacher_has_the_examples_of_an_llm_that_figure_5_alone_is_of(values) -> None:
    values["llms"]["other"] = values["llms"][LLM]
    values["attention"] = {"llms": ["other"], "partition": "qa_to_qa"}
    configuration = load_configuration(values)
    job = JobPath("train", "other", "mend", "default", stage="pretrain")
    teacher = teacher_of(configuration.values, job)
    training = values["training"]["pretrain"]
    examples = specification(configuration, str(teacher)).teacher.examples
    assert examples == training["steps"] * training["batch_size"]
