"""The modules for whose change each kind of job runs again: those that its code hash reaches."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mend.code_hash import reached_modules

ROOT = Path(__file__).parents[2]


def entry_modules() -> dict[str, list[str]]:
    """Return the modules that each rule's `params` name, as `code=code(...)`."""
    found = {}
    for file in sorted((ROOT / "workflow/rules").glob("*.smk")):
        for rule in re.split(r"\n *rule ", file.read_text(encoding="utf-8"))[1:]:
            name = rule.partition(":")[0]
            if code := re.search(r"\bcode=(\w*)code\((.*?)\)", rule, flags=re.DOTALL):
                training = code[1] == "training_"  # names its stage, not modules
                named = ["mend.training.job"] if training else re.findall(r'"([\w.]+)"', code[2])
                found[name] = named
    return found


RULES = entry_modules()


def reached(rule: str, *others: str) -> set[str]:
    """Return the modules that a rule's hash reaches, without `mend.`."""
    return {name.partition(".")[2] for name in reached_modules(*RULES[rule], *others)} - {""}


def has_code(name: str) -> bool:
    """Return whether a module is more than a package's docstring."""
    place = ROOT.joinpath("mend", *name.split("."), "__init__.py")
    return not place.exists() or len(ast.parse(place.read_text(encoding="utf-8")).body) > 1


def room(modules: set[str], name: str) -> set[str]:
    return {module for module in modules if module.partition(".")[0] == name}


def names(text: str, under: str = "") -> frozenset[str]:
    return frozenset(f"{under}{name}" for name in text.split())


JOB = names("atomic_io errors progress configuration.settings")
TASKS = JOB | names("configuration.specs.tasks data.layout data.parquet data.tasks provenance")
RUN = names("choices methods settings specs.reading specs.run", "configuration.")
ROWS = TASKS | RUN | names("data.demonstrations data.template")
LLM = names(
    "configuration.positions configuration.specs.saved data.pretrained methods.base methods.built"
) | names(
    "architecture causal changes compilation contexts decoder_only devices encoder_decoder"
    " fingerprint frozen_llm kernels kernels.activations kernels.cross_attention loading padding"
    " pretrained sharding tensor_files verification",
    "models.",
)
ITEMS = names("configuration.conditions data.cuts data.items data.perturbation data.seeding")
SCORING = ROWS | LLM | ITEMS | names("configuration.specs.prediction evaluation.predict")
SCORING |= {"configuration.specs.free_form"}
SCORING |= names("evaluation.context_costs evaluation.grouping evaluation.scoring")
SCORING |= names("models.kernels.tree_attention models.operations")
TEACHER = ROWS | LLM | names("data.cuts data.examples training.losses training.teacher")
TEACHER |= names("configuration.specs.teacher configuration.specs.training models.likelihood")
TRAINING = TEACHER | {"models.operations", "methods.saved", "training.operations"}
TRAINING |= names("batches checkpoint distributed gradients job loop signals", "training.")
DISTILLER = names("methods.mend models.distiller")
POCKET = names("atomic_io configuration.choices errors") | names(
    "lexicon passages rules universe", "pocket."
)
PAGE = (RUN | {"atomic_io", "errors"}) | names("configuration.display_names")
TABLE = PAGE | names("configuration.claims configuration.specs.chunks paper reporting.pages")
TABLE |= names("configuration.specs.reporting evaluation.statistics")
TABLE |= {"configuration.specs.free_form"}
STUDY = TABLE | names("evaluation.metrics evaluation.prediction_table")
STUDY |= names("data.cuts data.parquet progress provenance reporting.cuts")
STUDY |= names("claims studies studies.names studies.numbers", "reporting.")
STUDY |= names("reporting.studies.section reporting.training_costs")
CANDIDATES = {"atomic_io", "errors"} | names(
    "configuration.choices configuration.paths data.parquet evaluation.statistics provenance"
    " reporting.candidates reporting.training_costs"
)
STYLES = names("reporting.figures.styles")
LINES = STYLES | names("reporting.figures.lines")
TABLE1 = TABLE | ROWS | names("data.corpus data.pretrained reporting.tables.table1")
TABLE5 = TABLE | names("data.parquet reporting.tables.table5")

REACHED = {
    "pocket_world": POCKET | names("data.layout pocket.world"),
    "download_benchmark": TASKS - names("data.parquet data.tasks progress provenance")
    | names("configuration.specs.hub data.hub"),
    "pool": TASKS - names("configuration.specs.tasks data.parquet data.tasks provenance")
    | names("configuration.specs.pool data.pool"),
    "own_tasks": JOB
    | names("choices specs.own_tasks words", "configuration.")
    | names("data.layout data.own_tasks data.seeding data.tables provenance"),
    "tasks": TASKS,
    "meta_train_text": TASKS | names("configuration.specs.meta_train_text data.meta_train_text"),
    "chunks": JOB | names("configuration.specs.chunks data.corpus data.pretrained"),
    "train_episodes": TASKS
    | names("configuration.specs.training_episodes data.seeding data.training_episodes"),
    "local_models": JOB | names("configuration.specs.local_models data.layout models.local_models"),
    "gguf_model": JOB
    | names("configuration.specs.gguf_models models.gguf_models")
    | names("data.package_files data.pretrained"),
    "pocket_models": POCKET
    | names("progress")
    | names("fitting pretrain pretrain_gpt2 pretrain_t5 text tokenizer", "pocket."),
    "pretraining_teacher": TEACHER,
    "pretrain": TRAINING,
    "choose": JOB | names("configuration.specs.choice evaluation.choice provenance"),
    "predict": SCORING,
    "attention": SCORING
    | DISTILLER
    | names("analysis.induction_heads configuration.specs.analysis methods.vanilla_icl"),
    "divergence": SCORING
    | names("analysis.divergence configuration.specs.divergence methods.vanilla_icl"),
    "efficiency_of": ROWS
    | LLM
    | ITEMS
    | DISTILLER
    | names("analysis.efficiency analysis.profiling configuration.specs.analysis paper")
    | names("methods.prompt_tuning methods.vanilla_icl models.operations"),
    "table1": TABLE1,
    "table5": TABLE5,
    "study": STUDY,
    "candidates": CANDIDATES,
    "learning_curves": STUDY
    | LINES
    | names("configuration.paths reporting.figures.learning_curves reporting.metrics"),
    "divergence_figure": STUDY | LINES | names("reporting.figures.divergence"),
    "costs_figure": STUDY | STYLES | names("reporting.figures.costs reporting.studies.table"),
    "figure": STUDY | STYLES | names("reporting.figures.study reporting.studies.table"),
    "figure3": PAGE | STYLES | names("data.parquet reporting.figures.efficiency"),
    "attention_figure": PAGE | STYLES | names("data.parquet reporting.figures.attention"),
    "report_page": STUDY
    | TABLE1
    | TABLE5
    | CANDIDATES
    | names(
        "metrics report report.leaderboard report.pictures report.runs studies.table", "reporting."
    ),
}
REACHED["download_corpus"] = REACHED["download_pool"] = REACHED["download_benchmark"]
REACHED["finetuning_teacher"] = REACHED["pretraining_teacher"]
REACHED["finetune"] = REACHED["pretrain"]
REACHED["study_figure"] = REACHED["figure"]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_each_rule_runs_again_for_these_modules_and_no_other(rule: str) -> None:
    """A change here is a change of what runs again: let a reviewer see it."""
    found = {name for name in reached(rule) if has_code(name)}
    assert found == REACHED[rule]


def test_every_rule_that_calls_the_package_hashes_its_code() -> None:
    for file in sorted((ROOT / "workflow/rules").glob("*.smk")):
        for rule in re.split(r"\n *rule ", file.read_text(encoding="utf-8"))[1:]:
            calls = "python -m mend" in rule
            assert calls == ("code=" in rule), rule.partition(":")[0]


@pytest.mark.parametrize("rule", ["pretraining_teacher", "finetuning_teacher"])
def test_a_teacher_does_not_run_again_for_scoring_or_a_training_loop(rule: str) -> None:
    assert not room(reached(rule), "evaluation")
    assert room(reached(rule), "training") <= {"training", "training.teacher", "training.losses"}
    assert not reached(rule) & {"configuration.conditions", "data.items", "data.perturbation"}


@pytest.mark.parametrize("rule", ["pretrain", "finetune"])
def test_a_training_runs_again_for_scoring_only_if_it_stops_by_scores(rule: str) -> None:
    assert not room(reached(rule), "evaluation")
    assert "configuration.conditions" not in reached(rule)
    assert "evaluation.scoring" in reached(rule, "mend.training.dev_score")


@pytest.mark.parametrize(
    "rule", ["pocket_world", "download_benchmark", "download_corpus", "pool", "tasks", "chunks"]
)
def test_data_do_not_change_with_models_and_what_is_done_with_them(rule: str) -> None:
    for name in ("models", "methods", "training", "evaluation", "analysis", "reporting"):
        assert not room(reached(rule), name), name


def test_episodes_change_with_models_only_where_one_compares_texts() -> None:
    sampled, found = "mend.data.evaluation_episodes", "mend.data.retrieval"
    assert found not in reached_modules(sampled)
    assert not room({name.partition(".")[2] for name in reached_modules(sampled, found)}, "models")


def test_training_episodes_do_not_change_with_evaluation_episodes() -> None:
    assert "data.evaluation_episodes" not in reached("train_episodes")


@pytest.mark.parametrize("rule", ["predict", "divergence", "attention", "efficiency_of"])
def test_what_is_evaluated_does_not_change_with_training(rule: str) -> None:
    assert not room(reached(rule), "training")


@pytest.mark.parametrize("rule", ["pretrain", "finetune", "predict"])
def test_a_method_does_not_run_again_for_another_method(rule: str) -> None:
    own = reached(rule, "mend.methods.prompt_tuning")
    shared = {"methods", "methods.base", "methods.built"}
    if rule != "predict":
        shared.add("methods.saved")
    assert room(own, "methods") == {*shared, "methods.prompt_tuning"}
    assert "models.distiller" not in own
    assert "models.distiller" in reached(rule, "mend.methods.hypertuning")


@pytest.mark.parametrize("rule", sorted(RULES))
def test_only_pages_and_figures_change_with_the_reporting(rule: str) -> None:
    if not any(name.startswith("mend.reporting") for name in RULES[rule]):
        assert not room(reached(rule), "reporting")
        assert not room(reached(rule), "planning")


@pytest.mark.parametrize("rule", sorted(RULES))
def test_no_job_runs_again_for_how_the_configuration_is_checked(rule: str) -> None:
    read_by_the_snakefile = {"loading", "checks", "job_specs", "schema", "presets", "study_checks"}
    assert not reached(rule) & {f"configuration.{name}" for name in read_by_the_snakefile}
