# The checked configuration, and what the rules share. No rules here.

import math
import os
import re
import sys
from glob import escape, glob

from mend.code_hash import code_hash
from mend.configuration.job_specs import (
    listed_tasks,
    specification,
    specification_json,
    test_tasks,
)
from mend.configuration.loading import load_configuration, with_given
from mend.configuration.methods import method_class, method_module
from mend.configuration.paths import JobPath, sampling_of
from mend.configuration.report_spec import all_choices, pictured_alone, study_pictures
from mend.configuration.runs import (
    candidate_folders,
    default_condition,
    divergence_runs,
    method_setup,
    study_runs,
    trained_stages,
    usual_variant,
    weights_folder,
)
from mend.configuration.study_specs import study_choices, study_stages
from mend.configuration.teachers import teacher_of
from mend.data.layout import benchmark_files
from mend.data.preflight import (
    check_gguf,
    check_int8_library,
    check_retrieval_library,
    with_present_tasks,
)
from mend.data.tables import own_files
from mend.errors import UserError
from snakemake.settings.types import DeploymentMethod


def told(function, *arguments):
    """Return what a function returns, or end with the lines that say what is wrong."""
    try:
        return function(*arguments)
    except UserError as error:
        sys.exit(f"error: {error}")


CONFIGURATION = told(
    load_configuration,
    with_given(config, workflow.config_settings.config),
    map(os.path.relpath, workflow.configfiles),
)
CONFIGURATION = told(with_present_tasks, CONFIGURATION)
R = CONFIGURATION.results
MODEL_FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
VALUES = CONFIGURATION.values
TASKS_SOURCE = VALUES.benchmark.tasks.source
SAMPLING = sampling_of(default_condition(VALUES))
ENVIRONMENT = f"{PACKAGE}/workflow/envs/{VALUES.environment}.yaml"

STUDIES = list(VALUES.studies)
FIGURES = VALUES.figures
ALONE = pictured_alone(VALUES)
CHOICES = all_choices(CONFIGURATION)
EFFICIENCY = VALUES.efficiency.llms if VALUES.efficiency else []
ATTENTION = VALUES.attention.llms if VALUES.attention else []
TABLES = ["table1", "table5", *STUDIES]
PICTURES = [*FIGURES, *ALONE]
PICTURES += [picture for name in STUDIES for picture in study_pictures(VALUES, name)]
PICTURES += ["figure3"] if EFFICIENCY else []
PICTURES += ["figure5", "figure8"] if ATTENTION else []

# GNU's C library keeps what tensors free for the next ones, instead of handing it back to the
# system, which clears it: predictions of the pocket LLMs take a fifth less processor time
# (GPT-2 17.0 s to 14.4 s, T5 25.6 s to 19.4 s), trainings the same.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 * 2**20))  # the most that it allows
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**31 - 1))

# Jobs run this workflow's own package, wherever they are started from and whatever is installed.
# One that is installed they find themselves, in Snakemake's own environment.
SEARCHED = os.getenv("PYTHONPATH", "").split(os.pathsep)
if CLONE and CLONE not in SEARCHED:
    os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [CLONE, *SEARCHED])))
if not CLONE and DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    sys.exit(
        "error: --sdm conda is for a clone, whose package jobs run in that environment; here jobs "
        "run in the one that mend is installed in: leave --sdm conda out"
    )

# `--cores 8` on a machine with 2 processors must not start 8 jobs that compute: each takes the
# cores that stand for one processor.
PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
# (`workflow.cores` is an error where no number is given, as in `snakemake --report`.)
CORES = workflow.resource_settings.cores or 1
CORES_PER_PROCESSOR = math.ceil(CORES / PROCESSORS)


wildcard_constraints:
    llm="[^/]+",
    method="[^/]+",
    variant="[^/]+",
    partition="[^/]+",
    condition="[^/]+",
    sampling="[^/]+",


def one_of(names):
    """Return a wildcard constraint that allows these names alone."""
    return "|".join(map(re.escape, names)) or "(?!)"


def processors(wildcards, threads):
    """Return how many threads a job that was given `threads` cores computes with."""
    return max(1, threads // CORES_PER_PROCESSOR)


def memory(wildcards, attempt):
    """Return the main memory of a job with an LLM, in MB: twice as much at each attempt."""
    return 16000 * 2 ** (attempt - 1)


def code(*modules):
    """Return a function that hashes the code of a job, asked only if the job is looked at."""
    return lambda wildcards: code_hash(*modules)


def method_code(*modules):
    """Return a function that hashes the code of a job and of its method."""
    return lambda wildcards: code_hash(*modules, method_module(wildcards.method))


def prediction_code(*modules):
    """Return a function as `method_code` does, with generating if a task is free-form."""

    def hashed(wildcards):
        tasks = test_tasks(CONFIGURATION, wildcards.partition)
        free = any(CONFIGURATION.tasks[name].type == "free-form" for name in tasks)
        found = [*modules, *(["mend.evaluation.free_form"] if free else [])]
        return code_hash(*found, method_module(wildcards.method))

    return hashed


def benchmark_rows(wildcards):
    """Return what the task reader reads: the folder that a job makes, or the user's files."""
    folder = CONFIGURATION.benchmark_folder
    if TASKS_SOURCE != "folder":
        return [folder]
    spec = listed_tasks(CONFIGURATION)
    pool = None if VALUES.benchmark.pool_files else spec.pool
    files = benchmark_files(spec.train_tasks, spec.test_tasks, spec.seeds, pool)
    return [f"{folder}/{file.name}" for file in files]


def pool_source(wildcards):
    """Return what must be there before larger pools can be read: a folder, or the user's files."""
    if VALUES.benchmark.pool_files.source == "hub":
        return [f"{R}/data/pool-files"]
    return [file for name in CONFIGURATION.pool_files for file in sorted(glob(name))]


def pool_folder(wildcards):
    """Return the folder of larger pools, if they are not beside the tasks' other files."""
    return {"pool": f"{R}/data/pool"} if VALUES.benchmark.pool_files else {}


def own_rows(wildcards):
    """Return the files of one's own tasks, as far as they are on this machine."""
    own = VALUES.benchmark.own_tasks
    return sorted({file for name in CONFIGURATION.own_tasks for file in own_files(own[name])})


def own_folder(wildcards):
    """Return the folder of one's own tasks, if there are any."""
    return {"own": f"{R}/data/own-tasks"} if CONFIGURATION.own_tasks else {}


def corpus_source(wildcards):
    """Return what must be there before the corpus can be read."""
    made = {"pocket": f"{R}/data/benchmark"}
    made |= dict.fromkeys(("hub", "meta-train"), f"{R}/data/corpus")
    return made.get(VALUES.benchmark.corpus.source, CONFIGURATION.corpus_files)


def model_files(path):
    """Return the files of a model in a folder; none if it is on the hub.

    Asked before any job runs, so that a GGUF file that is not there is told then.
    """
    if path.startswith(f"{R}/gguf-models/") and not os.path.exists(f"{path}/config.json"):
        check_installed(check_gguf, VALUES.gguf_models, os.path.basename(path))
    if path.startswith((f"{R}/local-models/", f"{R}/gguf-models/")):
        return [f"{path}/{name}" for name in MODEL_FILES]
    return sorted(file for file in glob(f"{escape(path)}/*") if not file.endswith(".md"))


def check_installed(check, *arguments):
    """End with the line of a check of a library, unless conda is to install it."""
    if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
        told(check, *arguments)


def run_models(wildcards):
    """Return the files of the LLM of a run and, if its method uses it, of the distiller.

    Asked before any job runs, so that a library that this needs and that is not there is told then.
    """
    llm = VALUES.llms[wildcards.llm]
    if llm.int8:
        check_installed(check_int8_library)
    files = model_files(llm.path)
    if method_class(wildcards.method).distils:
        files += model_files(llm.distiller.path)
    return files


def retrieval_model(wildcards):
    """Return the files of the model that finds the nearest demonstrations, if one does.

    Asked before any job runs, so that a library that this needs and that is not there is told then.
    """
    if "selection=dense" not in wildcards.sampling:
        return []
    check_installed(check_retrieval_library, VALUES.benchmark.dense_retrieval)
    return model_files(VALUES.benchmark.dense_retrieval.model)


def episodes_code(wildcards):
    """Hash the code that chooses demonstrations, of retrieval only if it is asked for."""
    modules = ["mend.data.evaluation_episodes"]
    if "selection=dense" in wildcards.sampling or "selection=bm25" in wildcards.sampling:
        modules.append("mend.data.retrieval")
    if "selection=dense" in wildcards.sampling:
        modules.append("mend.models.text_embedding")
    return code_hash(*modules)


def development_rows(stage):
    """Return a function of a job's wildcards: the dev rows that its stage stops by, if it does."""

    def rows(wildcards):
        run = (wildcards.llm, wildcards.method, wildcards.variant)
        settings = method_setup(VALUES, *run).stages.get(stage)
        if not settings or not settings.early_stopping:
            return {}
        return {"dev": f"{R}/data/episodes/{SAMPLING}/dev.parquet", "tasks": f"{R}/data/tasks"}

    return rows


def training_code(stage):
    """Return a function that hashes a training's code, and that of scoring if it stops by it."""

    def hashed(wildcards):
        modules = ["mend.training.job", method_module(wildcards.method)]
        if development_rows(stage)(wildcards):
            modules.append("mend.training.dev_score")
        return code_hash(*modules)

    return hashed


def teacher_states(stage):
    """Return a function of a job's wildcards: its teacher's states, if they are kept.

    Of which examples they are is decided by the job's other inputs: it does not run again because
    a longer run asked for more of them.
    """

    def states(wildcards):
        run = (wildcards.llm, wildcards.method, wildcards.variant)
        job = JobPath("train", *run, wildcards.get("partition", ""), stage=stage)
        teacher = teacher_of(VALUES, job)
        return {"teacher": ancient(f"{R}/{teacher}/states")} if teacher else {}

    return states


def stage_weights(wildcards):
    """Return the weights that each stage of a run makes, in the order of the stages."""
    names = ("llm", "method", "variant", "partition")
    run = {name: wildcards.get(name) for name in names}
    stages = trained_stages(VALUES, **run)
    return [f"{R}/{stage}/weights.safetensors" for stage in stages]


def initial_weights(wildcards):
    """Return the weights that finetuning begins with, if there is a stage before it."""
    before = stage_weights(wildcards)[:-1]
    return {"initial": before[-1]} if before else {}


def final_weights(wildcards):
    """Return the weights that a run is predicted with, if its method is trained."""
    run = (wildcards.llm, wildcards.method, wildcards.variant, wildcards.partition)
    folder = weights_folder(VALUES, *run)
    return {"weights": f"{R}/{folder}/weights.safetensors"} if folder else {}


def candidates_of(wildcards):
    """Return the folders of the trainings that a run is chosen among."""
    run = (wildcards.llm, wildcards.method, wildcards.variant, wildcards.partition)
    return [f"{R}/{folder}" for folder in candidate_folders(VALUES, *run)]


def flags(input, *names):
    """Return the optional inputs that a job has as flags; of weights, their folder."""
    found = {name: input.get(name) for name in names}
    return [
        text
        for name, path in found.items()
        if path
        for text in (
            f"--{name}",
            os.path.dirname(path) if os.path.basename(path) == "weights.safetensors" else path,
        )
    ]


def study_files(study, name):
    """Return a file of each run of a study.

    name: "predictions"; "records" or "metrics", of all trainings; "choices", of what dev scores
    chose.
    """
    if name == "predictions":
        runs = study_runs(CONFIGURATION, study)
        return [f"{R}/{run.folder}/predictions.parquet" for run in runs]
    folders = study_choices if name == "choices" else study_stages
    file = "metrics.jsonl" if name == "metrics" else "record.json"
    return [f"{R}/{folder}/{file}" for folder in folders(CONFIGURATION, study)]


def folders_of(study, name):
    """Return the folders of `study_files`."""
    return [os.path.dirname(file) for file in study_files(study, name)]


def mend_weights(wildcards):
    """Return the weights of MEND as table 2 has it, for the partition that is looked at."""
    variant = usual_variant(VALUES, wildcards.llm, "mend")
    place = (wildcards.llm, "mend", variant, VALUES.attention.partition)
    return f"{R}/{weights_folder(VALUES, *place)}/weights.safetensors"


def measured_runs(wildcards):
    """Return the runs of a study with an LLM whose divergence from their teacher is measured."""
    return divergence_runs(CONFIGURATION, wildcards.study, wildcards.llm)


def measured_weights(wildcards):
    """Return the folder of the weights of each of these that is trained."""
    runs = measured_runs(wildcards)
    folders = [
        weights_folder(VALUES, run.llm, run.method, run.variant, run.partition) for run in runs
    ]
    return [f"{R}/{folder}" for folder in folders if folder]


def divergence_code(*modules):
    """Return a function that hashes the code of measuring divergence, and of the methods."""

    def hashed(wildcards):
        methods = dict.fromkeys(run.method for run in measured_runs(wildcards))
        return code_hash(*modules, *map(method_module, methods))

    return hashed


def efficiency_code(*modules):
    """Return a function that hashes the code of measuring costs, and of the methods besides."""
    others = VALUES.efficiency.methods if VALUES.efficiency else []
    return lambda wildcards: code_hash(*modules, *map(method_module, others))


def made(*names):
    """Return the tables and figures of these names, as far as the configuration has them."""
    tables = [f"{R}/{name}.html" for name in names if name in TABLES]
    return tables + [f"{R}/{name}.png" for name in names if name in PICTURES]
