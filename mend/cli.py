"""The command line: one command for each rule of the workflow, usable by hand.

Modules are imported when a command runs, so that drawing a table does not import torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mend.configuration.settings import read_spec
from mend.errors import UserError
from mend.progress import logger, start_logging


def pocket_world(options: argparse.Namespace) -> None:
    """Write the pocket benchmark: tasks in MetaICL's layout and a corpus."""
    from mend.configuration.specs.pocket import PocketWorldSpec
    from mend.pocket.world import write_world

    write_world(options.output, **dict(read_spec(options.spec, PocketWorldSpec)))


def pocket_models(options: argparse.Namespace) -> None:
    """Pretrain the pocket language models from nothing."""
    from mend.pocket.pretrain import pretrain_models

    pretrain_models(options.output, steps=options.steps)


def download_benchmark(options: argparse.Namespace) -> None:
    """Fetch the tasks from the hub."""
    from mend.configuration.specs.hub import BenchmarkDownload
    from mend.data.hub import download_benchmark

    download_benchmark(read_spec(options.spec, BenchmarkDownload), options.output)


def download_files(options: argparse.Namespace) -> None:
    """Fetch files of a data set from the hub: a corpus, or a pool of demonstrations."""
    from mend.configuration.specs.hub import FilesDownload
    from mend.data.hub import download_files

    download_files(read_spec(options.spec, FilesDownload), options.output)


def local_models(options: argparse.Namespace) -> None:
    """Train a small tokenizer and two small language models on local tasks' own text."""
    from mend.configuration.specs.local_models import LocalModelsSpec
    from mend.models.local_models import train_local_models

    train_local_models(read_spec(options.spec, LocalModelsSpec), options.folder, options.output)


def pool(options: argparse.Namespace) -> None:
    """Turn files of a data set into larger pools of demonstrations, in MetaICL's layout."""
    from mend.configuration.specs.pool import PoolSpec
    from mend.data.pool import write_pools

    write_pools(read_spec(options.spec, PoolSpec), options.files, options.output)


def tasks(options: argparse.Namespace) -> None:
    """Turn a folder in MetaICL's layout into one Parquet file for each task."""
    from mend.configuration.specs.tasks import TasksSpec
    from mend.data.tasks import import_tasks

    spec = read_spec(options.spec, TasksSpec)
    import_tasks(spec, options.folder, options.output, options.pool)


def chunks(options: argparse.Namespace) -> None:
    """Cut a corpus into chunks of tokens."""
    from mend.configuration.specs.chunks import ChunksSpec
    from mend.data.corpus import write_chunks

    write_chunks(read_spec(options.spec, ChunksSpec), options.files, options.output)


def train_episodes(options: argparse.Namespace) -> None:
    """Sample the episodes that finetuning reads."""
    from mend.configuration.specs.training_episodes import TrainingEpisodesSpec
    from mend.data.training_episodes import write_training_episodes

    write_training_episodes(
        read_spec(options.spec, TrainingEpisodesSpec), options.tasks, options.output
    )


def evaluation_episodes(options: argparse.Namespace) -> None:
    """Sample or retrieve the demonstrations of each dev or test row."""
    from mend.configuration.conditions import RETRIEVED
    from mend.configuration.specs.evaluation_episodes import EvaluationEpisodesSpec
    from mend.data.evaluation_episodes import write_evaluation_episodes

    spec, nearest = read_spec(options.spec, EvaluationEpisodesSpec), None
    if spec.selection in RETRIEVED:
        from mend.data import retrieval

        embed = None
        if spec.selection == "dense":
            from mend.models.text_embedding import load_embedder

            embed = load_embedder(spec.dense)
        nearest = partial(retrieval.nearest, embed)
    write_evaluation_episodes(spec, options.tasks, options.split, options.output, nearest)


def teacher(options: argparse.Namespace) -> None:
    """Keep what the frozen LLM makes of training examples, for every run that distils it."""
    _limit_threads(options.threads)
    from mend.configuration.specs.teacher import TeacherSpec
    from mend.training.teacher import write_teacher_states

    write_teacher_states(
        read_spec(options.spec, TeacherSpec),
        options.output,
        chunks=options.chunks,
        episodes=options.episodes,
        tasks=options.tasks,
    )


def train(options: argparse.Namespace) -> None:
    """Train a method in one stage."""
    if options.processes > 1 and "LOCAL_RANK" not in os.environ:
        _start_processes(options.processes)
    _limit_threads(options.threads)
    from mend.configuration.specs.training import TrainingSpec
    from mend.training.job import run_training

    spec, dev_score = read_spec(options.spec, TrainingSpec), None
    if options.dev:
        from mend.training.dev_score import DevScore

        dev_score = partial(
            DevScore, stopping=spec.training.early_stopping, dev=options.dev, tasks=options.tasks
        )
    run_training(
        spec,
        options.output,
        chunks=options.chunks,
        episodes=options.episodes,
        tasks=options.tasks,
        initial=options.initial,
        teacher=options.teacher,
        dev_score=dev_score,
    )


def choose(options: argparse.Namespace) -> None:
    """Choose among trained candidates by their dev scores."""
    from mend.configuration.specs.choice import ChoiceSpec
    from mend.evaluation.choice import choose

    choose(read_spec(options.spec, ChoiceSpec), options.candidates, options.output)


def predict(options: argparse.Namespace) -> None:
    """Score every option of every test row."""
    _limit_threads(options.threads)
    from mend.configuration.specs.prediction import PredictionSpec
    from mend.evaluation.predict import run_prediction

    run_prediction(
        read_spec(options.spec, PredictionSpec),
        options.episodes,
        options.tasks,
        options.output,
        options.weights,
    )


def efficiency(options: argparse.Namespace) -> None:
    """Measure what inference costs with one LLM, on a CPU with one thread."""
    _limit_threads(1)
    from mend.analysis.efficiency import measure
    from mend.configuration.specs.analysis import EfficiencySpec

    spec = read_spec(options.spec, EfficiencySpec)
    measure(spec, options.episodes, options.tasks, options.output)


def attention(options: argparse.Namespace) -> None:
    """Find one LLM's induction heads and where they look."""
    _limit_threads(options.threads)
    from mend.analysis.induction_heads import run_attention
    from mend.configuration.specs.analysis import AttentionSpec

    run_attention(
        read_spec(options.spec, AttentionSpec),
        options.episodes,
        options.tasks,
        options.weights,
        options.output,
    )


def table1(options: argparse.Namespace) -> None:
    """Write table 1 as CSV, Parquet and HTML."""
    from mend.configuration.specs.reporting import Table1Spec
    from mend.reporting.tables.table1 import write_table1

    write_table1(
        read_spec(options.spec, Table1Spec),
        options.tasks,
        csv=options.csv,
        parquet=options.parquet,
        html=options.html,
    )


def table5(options: argparse.Namespace) -> None:
    """Write table 5 as CSV, Parquet and HTML."""
    from mend.configuration.specs.reporting import Table5Spec
    from mend.reporting.tables.table5 import write_table5

    write_table5(
        read_spec(options.spec, Table5Spec),
        csv=options.csv,
        parquet=options.parquet,
        html=options.html,
    )


def study(options: argparse.Namespace) -> None:
    """Write a study's table as CSV, Parquet and HTML, and its judged claims as JSON."""
    from mend.configuration.specs.reporting import StudySpec
    from mend.reporting.studies import write_study

    write_study(
        read_spec(options.spec, StudySpec),
        options.predictions,
        options.records,
        csv=options.csv,
        parquet=options.parquet,
        html=options.html,
        details=options.details,
        choice_files=options.choices,
    )


def figure(options: argparse.Namespace) -> None:
    """Draw studies that vary something, side by side."""
    from mend.reporting.figures.study import write_figure

    write_figure(options.specs, options.tables, options.png, options.parquet)


def figure3(options: argparse.Namespace) -> None:
    """Draw what inference costs."""
    from mend.reporting.figures.efficiency import draw_efficiency

    draw_efficiency(options.parquets, options.png, options.parquet)


def figure5(options: argparse.Namespace) -> None:
    """Draw where induction heads look."""
    from mend.reporting.figures.attention import draw_attention

    draw_attention(options.parquets, options.png, options.parquet)


def figure8(options: argparse.Namespace) -> None:
    """Draw the induction scores of all heads."""
    from mend.reporting.figures.attention import draw_heads

    draw_heads(options.parquets, options.png, options.parquet)


def tensorboard(options: argparse.Namespace) -> None:
    """Write the metrics of training runs, finished or not, as TensorBoard's event files."""
    from mend.reporting.tensorboard import write_events

    write_events(options.results, options.output)


def report(options: argparse.Namespace) -> None:
    """Write one page with every result."""
    from mend.configuration.specs.reporting import ReportSpec
    from mend.reporting.report import write_report

    write_report(read_spec(options.spec, ReportSpec), options.output)


def plan(options: argparse.Namespace) -> None:
    """Say what a configuration's tables would cost; nothing is run."""
    from mend.configuration.loading import read_configuration
    from mend.data.preflight import with_present_tasks
    from mend.planning.plan import plan_text

    configuration = with_present_tasks(read_configuration(*options.configfile))
    print(plan_text(configuration, options.targets, options.device))


def _start_processes(number: int) -> None:
    """Become torchrun, which starts this same command in `number` processes that train as one."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # After `--` nothing is taken for an option of torchrun itself.
    command = [f"--nproc-per-node={number}", "-m", "--", "mend", *sys.argv[1:]]
    os.execv(sys.executable, [*launcher, *command])


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    root = argparse.ArgumentParser(prog="python -m mend", description=__doc__)
    subparsers = root.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable, *, spec: bool = True) -> argparse.ArgumentParser:
        name = run.__name__.replace("_", "-")
        sub = subparsers.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        sub.add_argument("--log", type=Path, help="also write progress to this file")
        if spec:
            sub.add_argument("--spec", type=Path, required=True, help="the job's settings, JSON")
        return sub

    def paths(sub: argparse.ArgumentParser, *names: str, required: bool = True) -> None:
        for name in names:
            sub.add_argument(f"--{name}", type=Path, required=required)

    def threads(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--threads", type=int, default=1)

    paths(command(pocket_world), "output")
    sub = command(pocket_models, spec=False)
    paths(sub, "output")
    sub.add_argument("--steps", type=int, help="stop early: a test of the recipe")
    paths(command(download_benchmark), "output")
    paths(command(download_files), "output")
    paths(command(local_models), "folder", "output")
    sub = command(pool)
    sub.add_argument("--files", nargs="+", required=True)
    paths(sub, "output")
    sub = command(tasks)
    paths(sub, "folder", "output")
    paths(sub, "pool", required=False)
    sub = command(chunks)
    sub.add_argument("--files", type=Path, nargs="+", required=True)
    paths(sub, "output")
    paths(command(train_episodes), "tasks", "output")
    sub = command(evaluation_episodes)
    sub.add_argument("--split", choices=("dev", "test"), required=True)
    paths(sub, "tasks", "output")
    sub = command(teacher)
    paths(sub, "output")
    paths(sub, "chunks", "episodes", "tasks", required=False)
    threads(sub)
    sub = command(train)
    paths(sub, "output")
    paths(sub, "chunks", "episodes", "tasks", "initial", "dev", "teacher", required=False)
    threads(sub)
    sub.add_argument(
        "--processes", type=int, default=1, help="train data-parallel in so many processes"
    )
    sub = command(choose)
    sub.add_argument(
        "--candidates", type=Path, nargs="+", required=True, help="folders of trainings"
    )
    paths(sub, "output")
    sub = command(predict)
    paths(sub, "episodes", "tasks", "output")
    paths(sub, "weights", required=False)
    threads(sub)
    paths(command(efficiency), "episodes", "tasks", "output")
    sub = command(attention)
    paths(sub, "episodes", "tasks", "weights", "output")
    threads(sub)
    sub = command(study)
    sub.add_argument("--predictions", type=Path, nargs="+", required=True)
    for name in ("records", "choices"):
        sub.add_argument(f"--{name}", type=Path, nargs="*", default=[])
    paths(sub, "csv", "parquet", "html", "details")
    paths(command(table1), "tasks", "csv", "parquet", "html")
    paths(command(table5), "csv", "parquet", "html")
    paths(command(report), "output")
    sub = command(figure, spec=False)
    for name in ("specs", "tables"):
        sub.add_argument(f"--{name}", type=Path, nargs="+", required=True)
    paths(sub, "png")
    paths(sub, "parquet", required=False)
    for run in (figure3, figure5, figure8):
        sub = command(run, spec=False)
        sub.add_argument("--parquets", type=Path, nargs="+", required=True)
        paths(sub, "png", "parquet")
    paths(command(tensorboard, spec=False), "results", "output")
    sub = command(plan, spec=False)
    sub.add_argument("targets", nargs="*", help="tables; all if none is named")
    sub.add_argument("--configfile", type=Path, nargs="+", default=[Path("config.yaml")])
    sub.add_argument("--device", default="h100", help="the GPU to plan for")
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 after one clear line about what is wrong."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    start_logging(options.log)
    try:
        options.run(options)
    except UserError as error:
        logger.error("error: %s", error)
        return 2
    return 0
