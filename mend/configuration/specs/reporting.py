"""What the jobs are told that make tables, figures and the report."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mend.configuration.choices import Metrics, TaskMean, TaskType
from mend.configuration.claims import Claim, CostClaim, PaperTable, Value
from mend.configuration.settings import Seed, Settings, Text
from mend.configuration.specs.chunks import TokenizerSource
from mend.configuration.specs.free_form import AnswerMetric
from mend.configuration.specs.reading import ReadingSettings

Layout = Literal["list", "matrix"]
Score = Literal["mean", "rank"]


class ComparedLLM(Settings):
    """An LLM of a table."""

    name: str
    """The key of `llms`."""

    paper_llm: Text | None = None
    """Whose numbers of the paper stand beside."""


class Axis(Settings):
    """What the points of a study differ in; the first is `run`."""

    name: str
    """Its key in the study, and its column."""

    values: list[Value]
    """All numbers, or all text."""


class StudyRun(Settings):
    """The predictions of a point of a study; several points may share them."""

    llm: str
    """The key of `llms`."""

    method: str
    """The method's name."""

    variant: str
    """What differs in training."""

    condition: str
    """How it is evaluated."""

    training_seed: Seed = 0
    """Of which training; a method that is not trained is the same for all."""

    values: dict[str, Value]
    """The point: a value of each axis."""


class StudySpec(Settings):
    """The job of a study: its points, and what is compared."""

    name: str
    """The key of `studies`."""

    title: str
    """The heading."""

    command: str
    """What makes the table again."""

    benchmark: str
    """The source of the tasks."""

    layout: Layout = "list"
    """`list`: a row for each point. `matrix`: methods, then the differences that are claimed."""

    llms: list[ComparedLLM] = Field(min_length=1)
    """Each is a block of the table."""

    partitions: list[str]
    """The columns, in their order."""

    test_tasks: dict[str, list[str]]
    """Each partition's meta-test tasks that are there; a partition without any is left out."""

    task_types: dict[str, TaskType]
    """The type of each task, which decides its metric."""

    free_form: Annotated[dict[str, AnswerMetric], Field(exclude_if=lambda tasks: not tasks)] = {}
    """The metric of each free-form task."""

    seeds: list[Seed] = Field(min_length=1)
    """Seeds of demonstrations."""

    training_seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    """Seeds of training: every point has a run of each."""

    axes: list[Axis]
    """Their products are the points."""

    runs: list[StudyRun]
    """Of each LLM, point and training seed."""

    shared: dict[str, Any] = {}
    """Settings of all runs (`set`)."""

    reference: dict[str, Value] = {}
    """What differences are taken to: a value of an axis."""

    claims: list[Claim] = []
    """What the study is to show."""

    score: Score = "mean"
    """What its figure shows."""

    context_share_of: str | None = None
    """The run whose longest context is 100 % along the bottom of the figure."""

    paper: PaperTable | None = None
    """The paper's table that stands beside."""

    metrics: Metrics = "metaicl"
    """Which type of task gets macro-F1."""

    task_mean: TaskMean = "plain"
    """How tasks are averaged."""

    skipped: dict[str, list[str]] = {}
    """Meta-test tasks of each partition whose files are not there."""

    excluded: dict[str, list[str]] = {}
    """Meta-test tasks of each partition that the configuration leaves out."""

    in_both: dict[str, list[str]] = {}
    """Tasks that a partition's meta-train and meta-test lists share."""

    drop_tasks_in_both: bool = False
    """Whether these are left out of meta-train."""

    @property
    def axis_values(self) -> dict[str, list[Value]]:
        """The values of each axis."""
        return {axis.name: axis.values for axis in self.axes}

    @property
    def scored_partitions(self) -> list[str]:
        """The partitions that have meta-test tasks."""
        return [name for name in self.partitions if self.test_tasks.get(name)]


class CountedLLM(TokenizerSource):
    """An LLM whose tokens are counted."""

    name: str
    """The key of `llms`."""


class Table1Spec(Settings):
    """The job of table 1."""

    command: str
    """What makes the table again."""

    benchmark: str
    """The source of the tasks."""

    llms: list[CountedLLM]
    """Whose tokens are counted."""

    partitions: list[str]
    """In their order."""

    tasks: dict[str, dict[Literal["train", "test"], list[str]]]
    """The tasks of each partition's sides."""

    seeds: list[Seed]
    """Seeds of the meta-test tasks' demonstrations."""

    reading: ReadingSettings
    """How demonstrations become tokens."""


class StageSettings(Settings):
    """One stage of a method's training with an LLM."""

    llm: str
    """The key of `llms`."""

    method: str
    """The method's name."""

    stage: str
    """pretrain or finetune."""

    settings: dict[str, Any]
    """The stage's settings by dotted key."""

    candidates: dict[str, list[Any]] = {}
    """Those that dev scores choose, and among what."""


class Table5Spec(Settings):
    """The job of table 5."""

    command: str
    """What makes the table again."""

    runs: list[StageSettings]
    """Every stage of table 2's methods."""

    seed: Seed
    """Of training."""


class ReportPart(Settings):
    """A result of the report; names are those of files, without endings."""

    name: str
    """A table, figure or study."""

    title: str | None = None
    """The heading, if it is not the paper's."""

    tables: list[str] = []
    """Its tables."""

    pictures: list[str] = []
    """Its pictures."""

    studies: list[str] = []
    """The studies that its picture shows."""

    commands: list[str] = []
    """What makes its pictures again."""


class ChangedChoice(Settings):
    """A choice of docs/fidelity.md that is not the default's."""

    key: str
    """Its dotted key."""

    value: Any
    """What it is here."""

    default: Any
    """What it is in the preset `default`."""


class ReportSpec(Settings):
    """The job of the report."""

    command: str
    """What makes the report again."""

    rulegraph_command: str
    """What draws the workflow's rules."""

    results: str
    """The folder of results."""

    benchmark: str
    """The source of the tasks."""

    corpus: str
    """What text is pretrained on, in words."""

    files: list[str]
    """The configuration's files."""

    preset: str
    """Of the choices."""

    differences: list[ChangedChoice]
    """Choices that are not the default's."""

    parts: list[ReportPart]
    """The results, the paper's first and in its order."""

    absent: list[str]
    """Results of the paper that the configuration lacks."""

    stages: list[str]
    """The folders of all trained stages."""

    study_stages: dict[str, list[str]]
    """Those of each study's runs."""

    study_choices: dict[str, list[str]] = {}
    """The folders of what dev scores choose for each study's runs."""

    cost_claims: list[CostClaim] = []
    """What figure 3 is to show."""
