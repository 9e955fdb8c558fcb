"""The configuration file as types: every key, what it may be, and a sentence on it.

Editors read the JSON schema that is made of these types: `python -m mend.configuration.schema`
writes workflow/schemas/configuration.schema.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema, create_model

from mend.configuration.choices import (
    MOST_META_TRAIN_ROWS,
    OF_ANSWERS,
    PARTITIONS,
    STAGES,
    Dtype,
    Metrics,
    PaperLLM,
    Partition,
    Preset,
    TaskMean,
)
from mend.configuration.claims import Claim, CostClaim, PaperTable
from mend.configuration.conditions import Perturbation, Selection
from mend.configuration.methods import MethodSettings, method_classes
from mend.configuration.presets import fidelity
from mend.configuration.settings import (
    LARGEST_COUNT,
    Count,
    Distinct,
    HubName,
    PackagePath,
    PathText,
    Revision,
    Seed,
    Settings,
    Text,
)
from mend.configuration.specs.chunks import PretrainingChunks
from mend.configuration.specs.evaluation_episodes import DemonstrationsAtTest, DenseRetrieval
from mend.configuration.specs.free_form import FreeForm
from mend.configuration.specs.gguf_models import GGUFModel
from mend.configuration.specs.local_models import LocalModelsSettings
from mend.configuration.specs.own_tasks import OwnTaskRows
from mend.configuration.specs.pocket import PocketSettings
from mend.configuration.specs.reading import ReadingSettings, Separators
from mend.configuration.specs.run import (
    DistillerSettings,
    LLMDistiller,
    LLMLoading,
    ScoringSettings,
)
from mend.configuration.specs.training import (
    Checkpointing,
    CommonLosses,
    DevRows,
    Losses,
    LossSettings,
    Optimisation,
    PretrainingSettings,
    Weight,
)
from mend.configuration.specs.training_episodes import LabelNames, TaskSampling

FILE = Path(__file__).parents[2] / "workflow/schemas/configuration.schema.json"

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
Names = Annotated[list[str], Field(min_length=1), Distinct]
PartitionName = Annotated[
    str,
    StringConstraints(pattern=NAME),
    WithJsonSchema(
        {
            "anyOf": [{"enum": list(PARTITIONS)}, {"type": "string", "pattern": NAME}],
            "description": "One of MetaICL's partitions, or a name from benchmark.own_partitions.",
        }
    ),
]
Partitions = Annotated[
    list[PartitionName],
    Field(min_length=1, description="MetaICL's partitions, or names from own_partitions."),
    Distinct,
]
LARGEST_WINDOW = 1_000_000
"""Tokens of a chunk."""
Share = Annotated[float, Field(ge=0, le=1)]


class Protocol(ReadingSettings, DistillerSettings, LossSettings, ScoringSettings):
    """Choices that decide what is measured; see docs/fidelity.md."""

    preset: Preset = "default"
    """Whose choices fill in what is not set here; see docs/fidelity.md."""

    distill_in_finetuning: Literal["input-and-output", "input"]
    """What the distillation loss covers in finetuning: the query's input and output, or input."""

    demonstrations_at_test: DemonstrationsAtTest
    """Sample demonstrations for each test row, or use one fixed set for each seed."""

    task_sampling: TaskSampling
    """Meta-train tasks are equally likely, or in proportion to their rows."""

    pretraining_chunks: PretrainingChunks
    """Windows of joined documents, or each document cut at the window's length."""

    metrics: Metrics
    """Macro-F1 for classification and accuracy for the rest (metaicl), or swapped (paper)."""

    task_mean: TaskMean
    """The plain mean over a partition's tasks, or the authors'."""

    excluded_test_tasks: dict[Partition, list[str]]
    """Meta-test tasks to leave out, for each partition."""

    drop_tasks_in_both: bool
    """Leave a task of a partition's meta-train and meta-test out of the meta-train."""


class Tasks(Settings):
    """Where MetaICL's rows come from."""

    source: Literal["pocket", "folder", "hub", "own"]
    """Made here (pocket), a local folder in MetaICL's layout, the Hugging Face hub, or nowhere
    (own): the tasks of own_tasks are all."""

    folder: PathText | None = None
    """source folder: holds data/TASK/TASK_16_SEED_SPLIT.jsonl."""

    repository: HubName | None = None
    """source hub: data set repository."""

    revision: Revision | None = None
    """source hub: commit or tag; pin it."""


class Corpus(Settings):
    """Where running text for pretraining comes from."""

    source: Literal["pocket", "folder", "hub", "meta-train"]
    """Made here (pocket), local files, the Hugging Face hub, or (meta-train) the inputs of the rows
    of meta-train tasks, of none that a partition of the configuration has in its meta-test."""

    folder: PathText | None = None
    """source folder: where `files` are; left out, the folder of benchmark.tasks."""

    files: Annotated[list[PathText], Field(min_length=1, max_length=10_000)] | None = None
    """Text files (.jsonl, .json.gz, .txt): patterns below the folder, or names in the
    repository."""

    column: Text = "text"
    """Which key of a JSON row holds the text."""

    repository: HubName | None = None
    """source hub: data set repository."""

    revision: Revision | None = None
    """source hub: commit or tag; pin it."""

    window: Annotated[int, Field(ge=16, le=LARGEST_WINDOW)]
    """Tokens in a pretraining chunk."""

    documents: Count | None = None
    """Read at most so many documents; null reads all."""


class PoolFiles(Settings):
    """A data set with larger pools of demonstrations: rows with the columns task, input, output,
    options, seed and split, those of split train."""

    source: Literal["folder", "hub"]
    """Local files, or the Hugging Face hub."""

    folder: PathText | None = None
    """source folder: where `files` are."""

    files: Annotated[list[PathText], Field(min_length=1, max_length=10_000)]
    """Files (.parquet or .jsonl): patterns below the folder, or names in the repository."""

    repository: HubName | None = None
    """source hub: data set repository."""

    revision: Revision | None = None
    """source hub: commit or tag; pin it."""


class OwnTask(FreeForm, OwnTaskRows):
    """A task of one's own; see docs/own-data.md."""


class OwnPartition(Settings):
    """A partition of one's own. A name is a task's, or that of one of MetaICL's partitions: all its
    tasks of the same side."""

    train: Annotated[list[Text], Distinct] = []
    """Meta-train tasks; none if nothing is finetuned."""

    test: Annotated[list[Text], Field(min_length=1), Distinct]
    """Meta-test tasks."""


class Benchmark(Settings):
    """Tasks, text, and how episodes are made of them."""

    tasks: Tasks
    """Where MetaICL's rows come from."""

    task_list: PackagePath | None = None
    """CSV of tasks, their types and their part in each partition."""

    own_tasks: dict[Name, OwnTask] = {}
    """Tasks of one's own, from tables or data sets, beside those of the task list."""

    own_partitions: dict[Name, OwnPartition] = {}
    """Partitions of one's own: which tasks are trained on and which are tested."""

    corpus: Corpus
    """Where running text for pretraining comes from."""

    partitions: Partitions
    missing_tasks: Literal["error", "skip"] = "error"
    """What to do if a partition names a task that is not there."""

    seeds: Annotated[list[Seed], Field(min_length=1), Distinct]
    """Seeds of the meta-test files."""

    shots: Annotated[int, Field(ge=1, le=16)]
    """K, demonstrations in a context."""

    test_rows: Count | None = None
    """At most so many test rows for each task and seed; null is all."""

    seed: Seed
    """Seed of the samples of episodes."""

    pool: Annotated[int, Field(ge=17, le=LARGEST_COUNT)] | None = None
    """Rows of each meta-test task and seed that bm25, dense and pool choose demonstrations from
    (files TASK_{pool}_SEED_train.jsonl); null: the training rows of all seeds."""

    pool_files: PoolFiles | None = None
    """Where these rows are, if not beside the tasks' other files; see docs/paper-scale.md."""

    dense_retrieval: DenseRetrieval | None = None
    """What embeds inputs for selection: dense."""

    @property
    def all_partitions(self) -> list[str]:
        """MetaICL's partitions that run, and one's own."""
        return list(dict.fromkeys([*self.partitions, *self.own_partitions]))


class EarlyStoppingSettings(DevRows):
    """Stop when dev rows no longer improve and keep the best weights; null trains all steps."""

    partition: PartitionName | None = None
    """Whose meta-test dev rows stop pretraining (the paper: class_to_class). Finetuning uses its
    own partition's."""


class StageSettings(Settings):
    """What both stages have besides their optimisation."""

    early_stopping: EarlyStoppingSettings | None
    """Stop when dev rows no longer improve and keep the best weights; null trains all steps."""

    teacher_cache: bool = False
    """Whether the teacher's states are computed once, kept in data/teacher and shared by all runs
    that distil the LLM; false runs the teacher at each step. It changes time and disk, not
    results."""


class Episodes(Settings):
    """What finetuning alone has."""

    queries_per_episode: Annotated[int, Field(ge=1, le=MOST_META_TRAIN_ROWS)]
    """Queries asked after the same demonstrations."""

    label_names: LabelNames | None = None
    """Other names of labels in some episodes; null leaves them as they are."""

    shots: Annotated[int, Field(ge=1, le=MOST_META_TRAIN_ROWS)] | None = None
    """Demonstrations of a training episode; null is benchmark.shots. More than a window holds are
    read whole by methods that read them in segments."""


# Bases from last to first: the order in which tables show the settings.
class Pretrain(Checkpointing, StageSettings, PretrainingSettings, Optimisation):
    """Pretraining on chunks of text."""


class Finetune(Checkpointing, StageSettings, Episodes, Optimisation):
    """Finetuning on episodes of meta-train tasks."""


class Training(Settings):
    """How every method is trained, as far as it does not say otherwise."""

    seed: Seed
    """Seed of new weights and of the order of chunks."""

    pretrain: Pretrain
    """Pretraining on chunks of text."""

    finetune: Finetune
    """Finetuning on episodes of meta-train tasks."""


def _partial(kind: type[Settings], name: str, *without: str, **more: Any) -> type[Settings]:
    """Return a type whose fields are those of another, none of which must be there."""
    fields: dict[str, Any] = {
        key: (field.rebuild_annotation(), Field(default=None, description=field.description))
        for key, field in kind.model_fields.items()
        if key not in without
    }
    return create_model(name, __base__=Settings, __doc__=kind.__doc__, **fields, **more)


#: What all that finetune have in common: they read the same episodes.
EPISODES = tuple(Episodes.model_fields)

_LLM_PRETRAIN = _partial(Pretrain, "LLMPretrain")
_LLM_FINETUNE = _partial(Finetune, "LLMFinetune", *EPISODES)
_OF_ALL_METHODS = ("early_stopping", *EPISODES)
MethodPretrain = _partial(Pretrain, "MethodPretrain", *_OF_ALL_METHODS, losses=(CommonLosses, ...))
MethodFinetune = _partial(Finetune, "MethodFinetune", *_OF_ALL_METHODS, losses=(CommonLosses, ...))
RunPretrain = create_model("RunPretrain", __base__=Pretrain, losses=(Losses, ...))
RunFinetune = create_model("RunFinetune", __base__=Finetune, losses=(Losses, ...))
RUN_STAGES: Mapping[str, type[Settings]] = {"pretrain": RunPretrain, "finetune": RunFinetune}
"""The complete settings of a run's stages."""


class LLMTraining(Settings):
    """What differs from `training` for this LLM."""

    pretrain: _LLM_PRETRAIN | None = None
    """Pretraining settings that differ from `training`."""

    finetune: _LLM_FINETUNE | None = None
    """Finetuning settings that differ from `training`."""


class LLM(LLMLoading):
    """A frozen LLM."""

    dtype: Dtype  # the preset decides
    """Precision of the frozen LLM."""

    int8: bool  # the preset decides
    """Load the frozen LLM in 8 bit; needs bitsandbytes and a GPU."""

    distiller: LLMDistiller
    """The small language model that the distiller starts as."""

    paper_llm: PaperLLM | None = None
    """Which of the paper's LLMs this stands for: its numbers stand beside, and a preset's values
    are those for it."""

    training: LLMTraining | None = None
    """What differs from `training` for this LLM."""

    methods: dict[Name, LLMTraining] = {}
    """What differs from `methods` for this LLM."""


def _is_axis_value(value: Any) -> bool:
    named = not isinstance(value, str) or value.strip()
    return named and isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _point_value(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    if not values or not all(map(_is_axis_value, values)):
        raise ValueError("give text, a number, or a list of them")
    return value


def _axis_points(value: Any) -> Any:
    if not isinstance(value, (list, dict)) or not all(map(_is_axis_value, value)):
        raise ValueError("give a list of text and numbers, or names with their settings")
    if len(set(value)) < len(value) or len(set(map(str, value))) < len(value):
        raise ValueError("it holds something twice")
    return value


_AXIS_VALUE = {"type": ["string", "number"], "description": "A value of this axis."}
_AXIS_VALUES = {
    "type": ["string", "number", "array"],
    "items": {"type": ["string", "number"]},
    "minItems": 1,
    "description": "A value of this axis, or a list of values: the first of all lists of a claim "
    "are one comparison, and so on.",
}


Point = Annotated[
    dict[str, Annotated[Any, AfterValidator(_point_value), WithJsonSchema(_AXIS_VALUES)]],
    Field(
        min_length=1,
        description="Values of axes; at every value of the axes that it leaves out.",
    ),
]


class StudyClaim(Claim):
    """What a study is to show: one point is above another."""

    higher: Point
    lower: Point


StudyPicture = Literal["learning-curves", "divergence", "costs"]


class Study(Settings):
    """A list of runs, and what of them is shown."""

    title: Text | None = None
    """What its table is headed with."""

    llms: Names
    """Names from `llms`."""

    methods: Names | None = None
    """Names from `methods`."""

    partitions: Partitions
    vary: Annotated[
        dict[
            Text,
            Annotated[
                Any,
                AfterValidator(_axis_points),
                WithJsonSchema(
                    {
                        "type": ["array", "object"],
                        "additionalProperties": True,
                        "description": "A list of values, or {name: settings}.",
                    }
                ),
            ],
        ],
        Field(
            description="Axes: a setting and its values, or a name and named groups of settings. "
            "training.seed is no axis of the table: its numbers are means over these seeds."
        ),
    ] = {}
    reference: (
        Annotated[
            dict[str, Annotated[Any, AfterValidator(_point_value), WithJsonSchema(_AXIS_VALUE)]],
            Field(min_length=1, max_length=1),
        ]
        | None
    ) = None
    """What differences are taken to: a value of an axis, such as {run: MEND}."""

    score: Literal["mean", "rank"] = "mean"
    """What its figure shows: the mean score, or the average rank of the last axis' values."""

    context_share_of: Text | None = None
    """A run: the figure shows scores against how much the LLM reads before a query, in positions
    (tokens or vectors), and in per cent of this run's longest context."""

    pictures: Annotated[list[StudyPicture], Distinct] = []
    """Pictures of its runs beside that of its numbers. learning-curves: losses and dev scores by
    examples seen. divergence: from the demonstrations themselves, token by token, on dev rows.
    costs: scores by the bytes that a context is kept in, and by the operations of a query."""

    claims: list[StudyClaim] = []
    """What the study is to show, each told to hold, not to hold, or not to be clear."""

    layout: Literal["list", "matrix"] | None = None
    """list: a row for each point. matrix: methods and then the differences that are claimed, a row
    for each partition. null is matrix for table2, and list for any other."""

    paper: PaperTable | None = None
    """The paper's table to set beside."""

    @property
    def axes(self) -> dict[str, Any]:
        """What is varied and shown; numbers are means over training seeds instead."""
        return {name: points for name, points in self.vary.items() if name != TRAINING_SEED}


class Efficiency(Settings):
    """Figure 3: what inference costs."""

    llms: Names
    """Names from `llms`."""

    partitions: Partitions
    methods: Annotated[list[str], Distinct] = []
    """Names from `methods` that are measured beside vanilla ICL, prompt tuning and MEND: in
    RESULTS/efficiency/LLM.parquet, not in figure 3."""

    claims: list[CostClaim] = []
    """What figure 3 is to show: one method's cost is below so many times another's."""


class Attention(Settings):
    """Figures 5 and 8: induction heads and where they look."""

    llms: Names
    """Names from `llms`."""

    copy_length: Annotated[int, Field(ge=2, le=LARGEST_WINDOW)] | None = None
    """Tokens of the random sequence that is repeated to find induction heads; 500 if left out, as
    in the paper."""

    partition: PartitionName
    """Whose MEND and meta-test rows are looked at."""


class ConfigurationValues(Settings):
    """The content of a configuration file, but for what depends on the methods that there are."""

    results: PathText
    """Folder for everything that is made."""

    environment: Literal["cpu", "cuda"] = "cpu"
    """Which pinned environment of workflow/envs/ --sdm conda uses."""

    protocol: Protocol
    """Choices that decide what is measured; see docs/fidelity.md."""

    pocket: PocketSettings | None = None
    """The generated benchmark."""

    benchmark: Benchmark
    """Tasks, text, and how episodes are made of them."""

    local_models: LocalModelsSettings | None = None
    """A small pair of models, trained here on the tasks' own text."""

    gguf_models: dict[Name, GGUFModel] = {}
    """Models of GGUF files, such as some Python packages bring: llms name them by
    RESULTS/gguf-models/NAME, the folder that each is turned into."""

    llms: Annotated[dict[Name, LLM], Field(min_length=1)]
    """The frozen LLMs, by name."""

    training: Training
    """How every method is trained."""

    templates: dict[Name, Separators] = {}
    """Other separators than protocol.separators, by name; runs choose one with `template`."""

    figures: dict[Name, Names] = {}
    """Pictures RESULTS/NAME.png of studies that vary something, side by side. Such a study that no
    figure names gets one of its own."""

    efficiency: Efficiency | None = None
    """Figure 3: what inference costs."""

    attention: Attention | None = None
    """Figures 5 and 8: induction heads and where they look."""


class Methods(Settings):
    """The methods of mend/methods/, their stages, and what in them differs from `training`."""

    def __getitem__(self, name: str) -> MethodSettings:
        """Return a method as it is configured: its own settings, `pretrain` and `finetune`."""
        return getattr(self, _identifier(name))

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the methods that are configured."""
        return iter(self.names())

    def __contains__(self, name: str) -> bool:
        """Whether a method is configured."""
        return name in self.names()

    def names(self) -> list[str]:
        """Return the names of the methods that are configured."""
        by_field = {_identifier(name): name for name in method_classes()}
        return [by_field[field] for field in self.__dict__ if field in self.model_fields_set]


EVALUATION = {
    "shots": (Count, "K, demonstrations in a context, at evaluation."),
    "selection": (
        Selection,
        "Where an evaluation's demonstrations come from: the seed's own 16 rows (train), at random "
        "from the pool, or the nearest of the pool by BM25 or by embeddings.",
    ),
    "perturbation": (
        Literal["none"] | Perturbation | None,
        "What is done to the demonstrations at evaluation.",
    ),
    "template": (Text | None, "Separators at evaluation: a name from `templates`."),
    "longest_context": (
        Count | None,
        "Tokens of demonstrations that LLM and distiller read at most, at evaluation.",
    ),
    "group": (Count | None, "Distil so many demonstrations at a time and join the vectors."),
}
"""Settings of a run that decide how it is evaluated: its condition."""

TRAINING_SEED = "training.seed"
"""The setting that a study may vary without showing it: its numbers are means over the values."""

SELECT = "select"
"""The key of candidates for settings, of which dev scores choose."""

NOT_OF_RUNS = (
    "micro_batch_size",
    "compile",
    "early_stopping",
    "teacher_cache",
    "checkpoint_every",
    "log_every",
    *EPISODES,
    "betas",
)
"""Settings of a stage that runs of one study do not differ in."""


def _training_settings() -> Iterator[tuple[str, Any, str | None]]:
    """Yield (dotted key, type, description) of what methods and their stages can be trained with.

    A key of several methods comes several times.
    """
    for method in method_classes().values():
        for key, field in method.model_fields.items():
            yield key, field.rebuild_annotation(), field.description
    for stage, kind, without in (("pretrain", Pretrain, OF_ANSWERS), ("finetune", Finetune, ())):
        for key, field in kind.model_fields.items():
            if key not in NOT_OF_RUNS:
                yield f"{stage}.{key}", field.rebuild_annotation(), field.description
        for key, field in CommonLosses.model_fields.items():
            if key not in without:
                yield f"{stage}.losses.{key}", field.rebuild_annotation(), field.description
        for method in method_classes().values():
            for key, described in method.own_losses.items():
                yield f"{stage}.losses.{key}", Weight, described


@cache
def run_settings() -> type[Settings]:
    """Return the type of the settings by which runs of a study differ, by dotted keys.

    They are the methods' own settings, those of their stages, and those of `EVALUATION`.
    """
    fields: dict[str, tuple] = {}

    def add(key: str, kind: Any, description: str | None) -> None:
        field = Field(default=None, alias=key, description=description)
        fields.setdefault(_identifier(key), (kind, field))

    for key, kind, description in _training_settings():
        add(key, kind, description)
    seed = Training.model_fields["seed"]
    add(TRAINING_SEED, seed.rebuild_annotation(), seed.description)
    for stage in STAGES:
        add(stage, Literal["none"] | None, "none leaves this stage out.")
    for key, (kind, description) in EVALUATION.items():
        add(key, kind, description)
    description = "Settings of a run that differ from its method's configuration."
    return create_model("RunSettings", __base__=Settings, __doc__=description, **fields)


@cache
def candidates_type() -> type[Settings]:
    """Return the type of `select`: lists of candidates for training settings, by dotted keys."""
    fields: dict[str, tuple] = {}
    for key, kind, description in _training_settings():
        of_key = Annotated[list[kind], Field(min_length=2), Distinct]
        field = Field(default=None, alias=key, description=description)
        fields.setdefault(_identifier(key), (of_key, field))
    description = (
        "Candidates for training settings: all their combinations are trained, and the one with "
        "the best dev score, for each LLM and partition, is the run that is predicted. null "
        "chooses nothing."
    )
    return create_model("Candidates", __base__=Settings, __doc__=description, **fields)


@cache
def configuration_type() -> type[ConfigurationValues]:
    """Return the type of a whole configuration, with what the methods' files add to it."""
    entries, candidates = {}, candidates_type()
    select = (candidates | None, Field(None, description=candidates.__doc__))
    for name, method in method_classes().items():
        pretrain, finetune = _stages_of(method)
        entry = create_model(
            f"{method.__name__}Entry",
            __base__=method,
            __doc__=method.__doc__,
            pretrain=(pretrain | None, Field(None, description=Pretrain.__doc__)),
            finetune=(finetune | None, Field(None, description=Finetune.__doc__)),
            select=select,
        )
        field = Field(default=None, alias=name, description=method.__doc__)
        entries[_identifier(name)] = (entry, field)
    methods = create_model("Methods", __base__=Methods, __doc__=Methods.__doc__, **entries)
    settings = run_settings()
    run = create_model(
        "StudyRun",
        __base__=settings,
        __doc__="A row of a study's table: a method, and settings.",
        method=(Text, Field(description="Name from `methods`.")),
    )
    described = "Instead of methods: the rows of the table, by name, each a method and settings."
    study = create_model(
        "Study",
        __base__=Study,
        __doc__=Study.__doc__,
        runs=(dict[Text, run] | None, Field(None, min_length=1, description=described)),
        set=(settings, Field(settings(), description=settings.__doc__)),
        select=select,
    )
    told = "Lists of runs; each becomes RESULTS/NAME.csv, .parquet and .html."
    return create_model(
        "Configuration",
        __base__=ConfigurationValues,
        methods=(methods, Field(description=Methods.__doc__)),
        studies=(dict[Name, study], Field(description=told)),
    )


def _stages_of(method: type[MethodSettings]) -> tuple[type[Settings], type[Settings]]:
    """Return the types of a method's stages, with losses of its own among theirs."""
    if not method.own_losses:
        return MethodPretrain, MethodFinetune
    name = method.__name__
    losses = create_model(
        f"{name}CommonLosses",
        __base__=CommonLosses,
        __doc__=CommonLosses.__doc__,
        **{key: (Weight, Field(0.0, description=told)) for key, told in method.own_losses.items()},
    )
    pretrain, finetune = (
        create_model(
            f"{name}{stage.__name__}", __base__=stage, __doc__=stage.__doc__, losses=(losses, ...)
        )
        for stage in (MethodPretrain, MethodFinetune)
    )
    return pretrain, finetune


def given(settings: Settings | None) -> dict[str, Any]:
    """Return settings that are set, and not left to their defaults, by their keys."""
    return settings.model_dump(by_alias=True, exclude_unset=True) if settings else {}


def json_schema() -> dict[str, Any]:
    """Return the JSON schema that editors read: what a preset fills in may be left out."""
    schema = configuration_type().model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    for rule in _rules(schema):
        rule.pop("title", None)
        if rule.get("default", "") is None:
            del rule["default"]
    for key in fidelity():
        place = key.split(".") if "." in key else ["protocol", key]
        for rule in _at(schema, schema, place[:-1]):
            required = [name for name in rule.get("required", ()) if name != place[-1]]
            rule.pop("required", None)
            rule |= {"required": required} if required else {}
    return schema


def _rules(rule: Any) -> Iterable[dict[str, Any]]:
    """Yield a rule of a JSON schema and all rules within it."""
    if isinstance(rule, dict):
        yield rule
        for key, child in rule.items():
            if key in ("properties", "$defs", "patternProperties"):
                for inner in child.values():
                    yield from _rules(inner)
            elif key in ("items", "additionalProperties"):
                yield from _rules(child)
            elif key == "anyOf":
                for inner in child:
                    yield from _rules(inner)


def _at(schema: dict[str, Any], rule: dict[str, Any], place: list[str]) -> list[dict[str, Any]]:
    """Return the rules at a dotted place of a schema, `*` standing for every key."""
    while "$ref" in rule:
        rule = schema["$defs"][rule["$ref"].rpartition("/")[2]]
    if "anyOf" in rule:
        return [found for inner in rule["anyOf"] for found in _at(schema, inner, place)]
    if not place:
        return [rule] if "properties" in rule else []
    name, *rest = place
    properties = rule.get("properties", {})
    children = [properties[key] for key in properties if name in ("*", key)]
    if name == "*" and "patternProperties" in rule:
        children += rule["patternProperties"].values()
    return [found for child in children for found in _at(schema, child, rest)]


def _identifier(key: str) -> str:
    """Return a key as the name of a field: those of methods and of dotted settings are none."""
    return key.replace("-", "_").replace(".", "__")


if __name__ == "__main__":
    FILE.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
