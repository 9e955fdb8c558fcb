"""What a configuration's tables and figures cost, told before anything is spent.

Only the configuration is read: no job runs, nothing is downloaded, and torch is not imported. Each
number is an estimate by the formulas of `mend.planning.costs` with the assumptions of
`mend.planning.jobs`; hours also hang on what a device reaches (`mend.planning.devices`). What
several studies share is counted once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mend.configuration.choices import STAGES
from mend.configuration.loading import Configuration
from mend.configuration.paths import JobPath, parse_job_path, sampling_of
from mend.configuration.runs import (
    Run,
    candidate_folders,
    chosen_folder,
    study_runs,
    trained_stages,
)
from mend.configuration.teachers import teacher_of
from mend.errors import UserError
from mend.planning.architectures import BYTES
from mend.planning.costs import Work
from mend.planning.devices import (
    COMPILED_LAYER_SECONDS,
    DEVICES,
    LAYER_SECONDS,
    MEASURED,
    UTILISATION,
    Speed,
    find_speed,
)
from mend.planning.jobs import (
    ANSWER,
    OPTIONS,
    TEST_ROWS,
    Job,
    Models,
    prediction_job,
    teacher_job,
    training_job,
)

KINDS = ("teacher", *STAGES, "predict")
#: Assumed, of the benchmark and the corpus on the hub: downloaded, and as chunks and rows besides.
DATA_BYTES = 7e9
HEADERS = ("LLM", "stage", "jobs", "steps", "PFLOP", "hours", "longest job", "memory GB", "disk GB")


@dataclass(frozen=True)
class Row:
    """One LLM's jobs of one stage, or all jobs.

    seconds, longest: of all of them, and of the longest one.
    """

    llm: str
    stage: str
    jobs: int
    steps: int
    work: Work
    seconds: float
    longest: float
    memory: float
    disk: float


@dataclass(frozen=True)
class Plan:
    """What the targets cost on a device.

    speed: what the device is taken to reach, from records of trainings where there are any.
    data_jobs: jobs without a GPU; models, data, checkpoints, chosen (copies of chosen weights):
    bytes on disk besides the rows'.
    risks: sentences on what may not work, or costs more than it needs to.
    """

    targets: Sequence[str]
    device: str
    speed: Speed
    rows: Sequence[Row]
    total: Row
    data_jobs: int
    models: float
    data: float
    checkpoints: float
    chosen: float
    risks: Sequence[str]


def plan(configuration: Configuration, targets: Iterable[str] = (), device: str = "h100") -> Plan:
    """Return what targets cost: names of studies or figures, or their files; all without any.

    Raises UserError for a target or a device that there is not, or a model of unknown size.
    """
    if device not in DEVICES:
        raise UserError(f"plan: no numbers of the device {device}; there are {', '.join(DEVICES)}")
    studies = _studies(configuration, targets)
    runs = [run for study in studies for run in study_runs(configuration, study)]
    models = Models(configuration.values)
    trainings = dict.fromkeys(
        parse_job_path(stage)
        for run in runs
        for stage in trained_stages(
            configuration.values, run.llm, run.method, run.variant, run.partition
        )
    )
    teachers = dict.fromkeys(
        filter(None, (teacher_of(configuration.values, job) for job in trainings))
    )
    choices = _choices(configuration, runs)
    predictions = dict.fromkeys(run.path for run in runs)
    jobs = [teacher_job(configuration, models, job) for job in teachers]
    jobs += [training_job(configuration, models, job) for job in trainings]
    jobs += [prediction_job(configuration, models, job) for job in predictions]
    speed = find_speed(device, configuration.values.results)
    rows = [
        _row(llm, stage, group, speed)
        for llm in dict.fromkeys(run.llm for run in runs)
        for stage in KINDS
        if (group := [job for job in jobs if (job.llm, job.stage) == (llm, stage)])
    ]
    return Plan(
        studies,
        device,
        speed,
        rows,
        total=_row("all", "", jobs, speed),
        data_jobs=_data_jobs(configuration, runs, trainings) + len(choices),
        models=_download(configuration, models, {run.llm for run in runs}),
        data=DATA_BYTES if configuration.values.benchmark.tasks.source == "hub" else 0.0,
        checkpoints=max((job.meanwhile for job in jobs), default=0.0),
        chosen=sum(training_job(configuration, models, job).disk for job in choices.values()),
        risks=_risks(jobs, rows, device, speed),
    )


def plan_text(
    configuration: Configuration, targets: Iterable[str] = (), device: str = "h100"
) -> str:
    """Return a plan as text; raises UserError as `plan` does."""
    found = plan(configuration, targets, device)
    cells = [HEADERS, *map(_cells, [*found.rows, found.total])]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADERS))]
    lines = [f"Plan of {', '.join(found.targets)} on {device}: estimates, nothing was run.", ""]
    for row in cells:
        words = [
            word.ljust(width) if column < 2 else word.rjust(width)
            for column, (word, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(words).rstrip())
    on_disk = found.models + found.data + found.checkpoints + found.chosen
    lines += [
        "",
        f"Besides: {found.data_jobs} jobs without a GPU (data, settings not counted); on disk "
        f"{on_disk / 1e9:.1f} GB: models {found.models / 1e9:.1f}, data {found.data / 1e9:.1f}, "
        f"the largest job's checkpoint {found.checkpoints / 1e9:.1f}, weights chosen on dev rows "
        f"{found.chosen / 1e9:.1f}.",
        "",
        _speed_text(device, found.speed),
        "Trainings are counted to their last step, though most stop early.",
        "FLOPs of a query: 2 x parameters x tokens for each forward pass (student, distiller, and "
        "the teacher, once for all runs where its states are kept: training.*.teacher_cache), as "
        "much again backward through the frozen LLM, twice as much through the distiller, and "
        "attention. Demonstrations are assumed to fill the longest context; a row to have "
        f"{OPTIONS} options of {ANSWER} tokens"
        + _assumed_rows(configuration)
        + ". Memory is rough: +/- a third.",
    ]
    if found.risks:
        lines += ["", "Before you start:", *(f"- {risk}" for risk in found.risks)]
    return "\n".join(lines)


def _studies(configuration: Configuration, targets: Iterable[str]) -> list[str]:
    """Return the studies behind targets."""
    studies, figures = configuration.values.studies, configuration.values.figures
    names = [target.rsplit("/", 1)[-1].partition(".")[0] for target in targets]
    if not names or {"all", "tables"} & set(names):
        return list(studies)
    found: dict[str, None] = {}
    for name in names:
        if name not in studies and name not in figures:
            known = ", ".join([*studies, *figures])
            raise UserError(f"plan: {name} is neither a study nor a figure; there are {known}")
        found.update(dict.fromkeys(figures.get(name, [name])))
    return list(found)


def _speed_text(device: str, speed: Speed) -> str:
    """Return what hours follow from: what was measured, and what is assumed."""
    sheet, names = speed.device, {"half": "16 bits", "tf32": "TF32", "single": "float32"}
    text = f"Hours are of one {device} ({sheet.memory:g} GB). "
    for precision, found in speed.measured.items():
        text += (
            f"Measured, in {names[precision]}: {found.rate / 1e12:.3g} TFLOP/s, "
            f"{found.utilisation:.0%} of what the device multiplies large matrices with (medians "
            f"of {found.trainings} trainings' records in the results folder). "
        )
    peaks = [
        f"{getattr(sheet, precision):g} in {name}"
        for precision, name in names.items()
        if precision not in speed.measured
    ]
    return text + (
        f"Assumed: of its data sheet's TFLOPS ({', '.join(peaks)}) {UTILISATION:.0%} are reached, "
        f"in training and scoring alike: {MEASURED}; and a layer and pass takes at least "
        f"{1000 * LAYER_SECONDS:g} ms to start, {1000 * COMPILED_LAYER_SECONDS:g} compiled. None "
        "of that was measured of this project's own steps."
    )


def _row(llm: str, stage: str, jobs: Sequence[Job], speed: Speed) -> Row:
    seconds = [job.work.seconds(speed) for job in jobs]
    return Row(
        llm=llm,
        stage=stage,
        jobs=len(jobs),
        steps=sum(job.steps for job in jobs),
        work=sum((job.work for job in jobs), Work()),
        seconds=sum(seconds),
        longest=max(seconds, default=0.0),
        memory=max((job.memory for job in jobs), default=0.0),
        disk=sum(job.disk for job in jobs),
    )


def _choices(configuration: Configuration, runs: Sequence[Run]) -> dict[str, JobPath]:
    """Return the first candidate of each choice, whose weights are copied, by its folder."""
    found = {}
    for run in runs:
        place = (configuration.values, run.llm, run.method, run.variant, run.partition)
        if folder := chosen_folder(*place):
            found[folder] = parse_job_path(candidate_folders(*place)[0])
    return found


def _data_jobs(
    configuration: Configuration, runs: Sequence[Run], trainings: Iterable[JobPath]
) -> int:
    """Count the jobs that make what training and prediction read."""
    pretrained = {job.llm for job in trainings if job.stage == "pretrain"}
    finetuned = {job.partition for job in trainings if job.stage == "finetune"}
    samplings = {sampling_of(run.condition) for run in runs}
    benchmark, training = configuration.values.benchmark, configuration.values.training
    sources = [benchmark.tasks.source, benchmark.corpus.source]
    made = sum(
        source in ("hub", "pocket", "meta-train")
        for source in sources[: 1 if "pocket" in sources else 2]
    )
    stopping = any((training.pretrain.early_stopping, training.finetune.early_stopping))
    made += bool(configuration.own_tasks)
    return made + 1 + len(pretrained) + len(finetuned) + len(samplings) + stopping


def _download(configuration: Configuration, models: Models, llms: Iterable[str]) -> float:
    """Return the bytes of the models that a configuration names."""
    paths = {}
    for name in llms:
        llm = configuration.values.llms[name]
        paths[llm.path] = models(f"llms.{name}.path", llm.path)
        paths[llm.distiller.path] = models(f"llms.{name}.distiller.path", llm.distiller.path)
    return sum(model.parameters * BYTES.get(model.published, 4) for model in paths.values())


def _risks(jobs: Sequence[Job], rows: Sequence[Row], device: str, speed: Speed) -> list[str]:
    sheet = speed.device
    risks = [
        f"{row.llm} begins with some {row.memory / 1e9:.0f} GB to {row.stage}, {device} has "
        f"{sheet.memory:g}: less is computed at once where memory runs out"
        for row in rows
        if row.memory > sheet.memory * 1e9
    ]
    if slow := sorted({job.llm for job in jobs if job.dtype == "float32"}):
        risks.append(
            f"{', '.join(slow)}: float32 is {sheet.half / sheet.tf32:.0f} times slower than "
            f"bfloat16 in training (TF32), {sheet.half / sheet.single:.0f} times elsewhere"
        )
    waits = [job.one_by_one and job.work.launch_seconds >= job.work.seconds(speed) for job in jobs]
    if waiting := sum(waits):
        risks.append(
            f"{waiting} trainings read one example at a time and leave {device} waiting for "
            "Python: a larger micro_batch_size is faster and gives the same gradients"
        )
    return risks


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.llm,
        row.stage,
        str(row.jobs),
        f"{row.steps:,}" if row.steps else "",
        _number(row.work.flops / 1e15),
        _number(row.seconds / 3600),
        f"{_number(row.longest / 3600)} h",
        f"{row.memory / 1e9:.1f}",
        f"{row.disk / 1e9:.1f}",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value else "0"


def _assumed_rows(configuration: Configuration) -> str:
    if configuration.values.benchmark.test_rows:
        return ""
    return f"; a meta-test task to have {TEST_ROWS:,} rows"
