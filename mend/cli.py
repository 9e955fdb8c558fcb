"""The command line: what a person calls, and one command for each rule of the workflow.

Modules are imported when a command runs, so that drawing a table does not import torch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mend import __version__
from mend.configuration.settings import read_spec
from mend.door import advice, check_inputs, check_outputs, one_line, unexpected
from mend.errors import UserError
from mend.progress import logger, start_logging

if TYPE_CHECKING:
    from mend.library.context import Context
    from mend.library.methods import ContextMethod

MOST = 1024
"""Threads or processes of a command."""

GROUPS = {
    "To begin": ("init", "plan", "completion"),
    "With a trained method": ("distill", "score", "generate", "push"),
    "What the workflow's rules call": (),
}
"""The commands that a person calls, by what for; the last has all others."""

AT_ONCE = 32
"""Queries that are asked at once, between two steps of a progress bar."""


def init(options: argparse.Namespace) -> None:
    """Write a commented configuration, a Snakefile and two little tasks into a folder."""
    from mend.starter import write_starter

    for path in write_starter(options.folder):
        print(path)
    logger.info("now, in %s: snakemake -n, then snakemake --cores 4", options.folder)


def completion(options: argparse.Namespace) -> None:
    """Print a shell's completion of this command."""
    import shtab

    root = parser()
    for action in chain(*(each._actions for each in root.commands.values())):  # noqa: SLF001
        if action.type is _path:
            action.complete = shtab.FILE
    print(shtab.complete(root, options.shell))


def distill(options: argparse.Namespace) -> None:
    """Turn demonstrations into a context, a folder that `score` and `generate` read."""
    from mend import ContextMethod

    rows = _table(options.demonstrations, "input", "output")
    method = ContextMethod.from_pretrained(options.method, llm=options.llm)
    context = method.distill([(row["input"], row["output"]) for row in rows])
    context.save_pretrained(options.output)
    logger.info("%s: %r", options.output, context)


def score(options: argparse.Namespace) -> None:
    """Print the log-probability of each option after each query."""
    queries = _queries(options)
    method, context = _context(options)

    def ask(part: Sequence[str]) -> list[list[float]]:
        return method.score(context, part, options.options, option_score=options.option_score)

    for query, scores in _in_parts(queries, ask):
        best = options.options[scores.index(max(scores))]
        found = dict(zip(options.options, scores, strict=True))
        if options.json:
            _print_json({"query": query, "best": best, "scores": found})
        else:
            told = ", ".join(f"{option} {value:.3f}" for option, value in found.items())
            print(f"{best}\t{told}\t{one_line(query)}")


def generate(options: argparse.Namespace) -> None:
    """Print the text that the LLM writes after each query."""
    queries = _queries(options)
    method, context = _context(options)
    ask = partial(method.generate, context, max_new_tokens=options.max_new_tokens)
    for query, text in _in_parts(queries, ask):
        if options.json:
            _print_json({"query": query, "text": text})
        else:
            print(text)


def push(options: argparse.Namespace) -> None:
    """Put a trained method on the Hugging Face hub, with a model card."""
    from mend import ContextMethod

    print(
        ContextMethod.from_pretrained(options.method, llm=options.llm).push_to_hub(
            options.name,
            scores=options.scores,
            base_model=options.base_model,
            licence=options.licence,
            private=options.private,
        )
    )


def _table(file: Path, *columns: str) -> list[dict[str, str]]:
    """Return a table's rows; raises UserError for a column that is missing or holds no text."""
    from mend.data.tables import file_rows

    found = []
    for where, row in file_rows(file):
        for column in columns:
            if not isinstance(row.get(column), str):
                raise UserError(f"{where}: it has no text in the column {column}")
        found.append(dict(row))
    if not found:
        raise UserError(f"{file}: it has no rows")
    return found


def _queries(options: argparse.Namespace) -> list[str]:
    """Return the queries that were given, or those of a file's column `input`."""
    if bool(options.query) == bool(options.queries):
        raise UserError("give queries: either --query TEXT ..., or --queries FILE")
    return options.query or [row["input"] for row in _table(options.queries, "input")]


def _context(options: argparse.Namespace) -> tuple[ContextMethod, Context]:
    """Return a saved context, and what asks its LLM."""
    from mend import Context, ZeroShot

    context = Context.from_pretrained(options.context, llm=options.llm)
    return ZeroShot(context.llm), context


def _in_parts(
    queries: Sequence[str], ask: Callable[[Sequence[str]], list[Any]]
) -> Iterator[tuple[str, Any]]:
    """Yield each query with its answer.

    Where answers go to a file, and standard error to a terminal, a progress bar says how far it is.
    """
    from tqdm import tqdm

    hidden = True if sys.stdout.isatty() else None  # None: tqdm looks at standard error
    with tqdm(total=len(queries), unit="query", disable=hidden, leave=False) as progress:
        for start in range(0, len(queries), AT_ONCE):
            part = queries[start : start + AT_ONCE]
            yield from zip(part, ask(part), strict=True)
            progress.update(len(part))


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


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


def gguf_model(options: argparse.Namespace) -> None:
    """Turn a GGUF file into a model's folder in the hub's layout."""
    from mend.configuration.specs.gguf_models import GGUFModel
    from mend.models.gguf_models import convert_gguf

    convert_gguf(read_spec(options.spec, GGUFModel), options.output)


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
    import_tasks(spec, options.folder, options.output, options.pool, options.own)


def own_tasks(options: argparse.Namespace) -> None:
    """Turn tables of one's own into tasks in MetaICL's layout."""
    from mend.configuration.specs.own_tasks import OwnTasksSpec
    from mend.data.own_tasks import write_own_tasks

    write_own_tasks(read_spec(options.spec, OwnTasksSpec), options.output)


def meta_train_text(options: argparse.Namespace) -> None:
    """Write the inputs of meta-train rows as a corpus."""
    from mend.configuration.specs.meta_train_text import MetaTrainTextSpec
    from mend.data.meta_train_text import write_meta_train_text

    spec = read_spec(options.spec, MetaTrainTextSpec)
    write_meta_train_text(spec, options.tasks, options.output)


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
            if not spec.dense:
                raise UserError(f"{options.spec}: dense is missing, what embeds texts")
            from mend.models.text_embedding import load_embedder

            embed = load_embedder(spec.dense)
        nearest = partial(retrieval.nearest, embed)
    write_evaluation_episodes(spec, options.tasks, options.split, options.output, nearest)


def teacher(options: argparse.Namespace) -> None:
    """Keep what the frozen LLM makes of training examples, for every run that distils it."""
    _limit_threads(options.threads)
    from mend.configuration.specs.teacher import TeacherSpec
    from mend.training.teacher import write_teacher_states

    spec = read_spec(options.spec, TeacherSpec)
    _check_examples(options, spec.teacher.stage)
    write_teacher_states(
        spec,
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
    _check_examples(options, spec.training.stage, "dev" if spec.training.early_stopping else None)
    if spec.training.early_stopping:
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

    spec = read_spec(options.spec, PredictionSpec)
    if not options.weights and _is_trained(spec.method.name):
        raise UserError(f"--weights is missing; {spec.method.name} is a method that is trained")
    answered = None
    if spec.predict.free_form:
        from mend.evaluation.free_form import answered
    run_prediction(
        spec,
        options.episodes,
        options.tasks,
        options.output,
        options.weights,
        answered,
    )


def divergence(options: argparse.Namespace) -> None:
    """Measure how far runs' contexts are from the demonstrations themselves, token by token."""
    _limit_threads(options.threads)
    from mend.analysis.divergence import run_divergence
    from mend.configuration.specs.divergence import DivergenceSpec

    spec = read_spec(options.spec, DivergenceSpec)
    run_divergence(spec, options.episodes, options.tasks, options.output, options.weights)


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


def candidates(options: argparse.Namespace) -> None:
    """Write every candidate that dev scores chose among, as CSV and Parquet."""
    from mend.reporting.candidates import write_candidates

    write_candidates(options.choices, csv=options.csv, parquet=options.parquet)


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


def learning_curves(options: argparse.Namespace) -> None:
    """Draw how a study's runs were trained: losses and dev scores by examples seen."""
    from mend.reporting.figures.learning_curves import write_learning_curves

    write_learning_curves(
        options.spec, options.trainings, options.choices, options.png, options.parquet
    )


def divergence_figure(options: argparse.Namespace) -> None:
    """Draw how far a study's runs are from the demonstrations, by position in the query."""
    from mend.reporting.figures.divergence import write_divergence

    write_divergence(options.spec, options.parquets, options.png, options.parquet)


def costs_figure(options: argparse.Namespace) -> None:
    """Draw a study's scores against what its runs' contexts cost."""
    from mend.reporting.figures.costs import write_costs

    write_costs(options.spec, options.table, options.png, options.parquet)


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
    from mend.planning import plan as planning

    files = options.configfile or [Path("config.yaml")]
    configuration = with_present_tasks(read_configuration(*files))
    asked = (configuration, options.targets, options.device)
    if options.json:
        _print_json(asdict(planning.plan(*asked)))
    else:
        print(planning.plan_text(*asked))


def _is_trained(method: str) -> bool:
    """Return whether a method trains anything."""
    from mend.configuration.methods import method_class
    from mend.methods.base import Method

    return method_class(method).trained is not Method.trained


def _check_examples(options: argparse.Namespace, stage: str, *more: str | None) -> None:
    """Raise UserError unless a stage of training was given what it reads."""
    needed = ["chunks"] if stage == "pretrain" else ["episodes", "tasks"]
    for name in dict.fromkeys([*needed, *filter(None, more), *(["tasks"] if any(more) else [])]):
        if getattr(options, name) is None:
            raise UserError(f"--{name} is missing, which the stage {stage} of {options.spec} reads")


def _start_processes(number: int) -> None:
    """Become torchrun, which starts this same command in `number` processes that train as one."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # After `--` nothing is taken for an option of torchrun itself.
    command = [f"--nproc-per-node={number}", "-m", "--", "mend", *sys.argv[1:]]
    os.execv(sys.executable, [*launcher, *command])


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, like those of commands."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{self.prog}: {message} (--help lists what it takes)")


class _Root(_Parser):
    """The parser of all commands, whose help lists them in groups.

    commands: the parser of each, by name.
    """

    commands: dict[str, argparse.ArgumentParser]

    def format_help(self) -> str:
        """Return the help."""
        listed = set(chain(*GROUPS.values()))
        lines = [f"usage: {self.prog} COMMAND ...", "", self.description or ""]
        for group, names in GROUPS.items():
            lines += ["", f"{group}:"]
            for name in names or [name for name in self.commands if name not in listed]:
                lines.append(f"  {name:<20}{self.commands[name].description}")
        return "\n".join([*lines, "", f"{self.prog} COMMAND --help says what a command takes.", ""])


def _path(text: str) -> Path:
    if not text or any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in text):
        raise argparse.ArgumentTypeError(f"{text!r} names no file")
    return Path(text)


def _number(most: int) -> Callable[[str], int]:
    """Return what parses a whole number from 1 to `most`."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {most}")
        return int(text)

    return number


def parser() -> _Root:
    """Return the parser of every command.

    What is parsed has `reads` and `read_folders`, the options that are inputs, and `writes`, the
    form of each output (`mend.door`).
    """
    told = "Meta demonstration distillation: methods of in-context learning, trained and compared."
    root = _Root(prog="mend", description=told, allow_abbrev=False)
    subparsers = root.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    root.commands = subparsers.choices
    root.add_argument("--version", action="version", version=f"mend {__version__}")

    def command(run: Callable, *, spec: bool = True, **writes: str) -> argparse.ArgumentParser:
        """Add a command; writes: the form of each output."""
        name = run.__name__.replace("_", "-")
        sub = subparsers.add_parser(
            name, help=run.__doc__, description=run.__doc__, allow_abbrev=False
        )
        sub.set_defaults(run=run, reads=[], read_folders=[], writes={"log": "log", **writes})
        sub.add_argument("--log", type=_path, help="also write progress to this file")
        for option in writes:
            sub.add_argument(f"--{option}", type=_path, required=True)
        if spec:
            reads(sub, "spec", help="the job's settings, JSON")
        return sub

    def reads(sub: argparse.ArgumentParser, *names: str, folder: bool = False, **options) -> None:
        """Add inputs, files or folders."""
        known = "read_folders" if folder else "reads"
        for name in names:
            sub.add_argument(f"--{name}", type=_path, **{"required": True, **options})
            sub.set_defaults(**{known: [*sub.get_default(known), name]})

    def threads(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--threads", type=_number(MOST), default=1)

    def json_option(sub: argparse.ArgumentParser, told: str) -> None:
        sub.add_argument("--json", action="store_true", help=told)

    optional = {"required": False}
    sub = command(init, spec=False)
    sub.add_argument("folder", type=_path, nargs="?", default=Path(), help="by default this one")
    sub = command(completion, spec=False)
    sub.add_argument("shell", choices=("bash", "zsh", "tcsh"))

    def trained(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("method", help="a training's folder, a saved one, or a name on the hub")
        sub.add_argument("--llm", help="where its frozen LLM is, if it is elsewhere by now")

    sub = command(distill, spec=False, output="folder")
    trained(sub)
    told = ".csv, .jsonl or .parquet with the columns input and output"
    reads(sub, "demonstrations", help=told)
    for run in (score, generate):
        sub = command(run, spec=False)
        sub.add_argument("context", help="what distill wrote: a folder, or a name on the hub")
        sub.add_argument("--llm", help="where its frozen LLM is, if it is elsewhere by now")
        sub.add_argument("--query", nargs="+", metavar="TEXT", help="the queries")
        told = "or a .csv, .jsonl or .parquet with the column input"
        reads(sub, "queries", help=told, **optional)
        json_option(sub, "print a line of JSON for each query")
        if run is score:
            sub.add_argument("--options", nargs="+", metavar="TEXT", required=True)
            told = "over an option's tokens"
            sub.add_argument("--option-score", choices=("mean", "sum"), default="mean", help=told)
        else:
            sub.add_argument("--max-new-tokens", type=_number(10**6), default=32)
    sub = command(push, spec=False)
    trained(sub)
    sub.add_argument("name", help="of the repository on the hub, OWNER/NAME")
    reads(sub, "scores", help="a study's table.csv, whose scores go into the card", **optional)
    sub.add_argument("--base-model", help="the LLM's name on the hub")
    sub.add_argument("--licence", help="of the weights, as the hub calls it")
    sub.add_argument("--private", action="store_true", default=None)
    command(pocket_world, output="folder")
    sub = command(pocket_models, spec=False, output="models")
    sub.add_argument("--steps", type=_number(10**8), help="stop early: a test of the recipe")
    command(download_benchmark, output="folder")
    command(download_files, output="folder")
    reads(command(local_models, output="models"), "folder", folder=True)
    command(gguf_model, output="folder")
    sub = command(pool, output="folder")
    sub.add_argument("--files", type=_path, nargs="+", required=True)
    sub = command(tasks, output="folder")
    reads(sub, "folder", "pool", "own", folder=True, **optional)
    command(own_tasks, output="folder")
    reads(command(meta_train_text, output="folder"), "tasks", folder=True)
    sub = command(chunks, output="parquet")
    sub.add_argument("--files", type=_path, nargs="+", required=True)
    reads(command(train_episodes, output="parquet"), "tasks", folder=True)
    sub = command(evaluation_episodes, output="parquet")
    sub.add_argument("--split", choices=("dev", "test"), required=True)
    reads(sub, "tasks", folder=True)
    sub = command(teacher, output="folder")
    reads(sub, "chunks", "episodes", **optional)
    reads(sub, "tasks", folder=True, **optional)
    threads(sub)
    sub = command(train, output="folder")
    reads(sub, "chunks", "episodes", "dev", **optional)
    reads(sub, "tasks", "initial", "teacher", folder=True, **optional)
    threads(sub)
    sub.add_argument(
        "--processes",
        type=_number(MOST),
        default=1,
        help="train data-parallel in so many processes",
    )
    sub = command(choose, output="folder")
    reads(sub, "candidates", folder=True, nargs="+", help="folders of trainings")
    sub = command(predict, output="parquet")
    reads(sub, "episodes")
    reads(sub, "tasks", folder=True)
    reads(sub, "weights", folder=True, **optional)
    threads(sub)
    sub = command(divergence, output="parquet")
    reads(sub, "episodes", nargs="+", help="of each run")
    reads(sub, "tasks", folder=True)
    told = "folders of trainings, of each run that is trained"
    reads(sub, "weights", folder=True, nargs="*", default=[], help=told, **optional)
    threads(sub)
    sub = command(efficiency, output="parquet")
    reads(sub, "episodes")
    reads(sub, "tasks", folder=True)
    sub = command(attention, output="parquet")
    reads(sub, "episodes")
    reads(sub, "tasks", "weights", folder=True)
    threads(sub)
    table = {"csv": "csv", "parquet": "parquet", "html": "html"}
    sub = command(study, **table, details="details")
    reads(sub, "predictions", nargs="+")
    reads(sub, "records", "choices", nargs="*", default=[], **optional)
    sub = command(candidates, spec=False, csv="csv", parquet="parquet")
    reads(sub, "choices", nargs="+")
    reads(command(table1, **table), "tasks", folder=True)
    command(table5, **table)
    command(report, output="html")
    sub = command(figure, spec=False, png="png")
    reads(sub, "specs", "tables", nargs="+")
    sub.add_argument("--parquet", type=_path)
    sub.set_defaults(writes={**sub.get_default("writes"), "parquet": "parquet"})
    sub = command(learning_curves, png="png", parquet="parquet")
    reads(sub, "trainings", folder=True, nargs="+", help="folders of trainings")
    reads(sub, "choices", folder=True, nargs="*", default=[], **optional)
    sub = command(divergence_figure, png="png", parquet="parquet")
    reads(sub, "parquets", nargs="+")
    reads(command(costs_figure, png="png", parquet="parquet"), "table")
    for run in (figure3, figure5, figure8):
        reads(command(run, spec=False, png="png", parquet="parquet"), "parquets", nargs="+")
    reads(command(tensorboard, spec=False, output="folder"), "results", folder=True)
    sub = command(plan, spec=False)
    sub.add_argument("targets", nargs="*", help="tables; all if none is named")
    told = "config.yaml if none; given again, the later is merged over the earlier"
    sub.add_argument("--configfile", type=_path, action="append", metavar="FILE", help=told)
    sub.add_argument("--device", default="h100", help="the GPU to plan for")
    json_option(sub, "print it as JSON; seconds, bytes and FLOPs")
    return root


def _check_paths(options: argparse.Namespace) -> None:
    """Raise UserError for inputs that are not there and outputs that are not ours, before any work.

    Of several processes that train together the first alone looks.
    """
    if os.environ.get("RANK", "0") != "0":
        return

    def given(names: Iterable[str]) -> dict[str, list[Path]]:
        found = {name: getattr(options, name) for name in names}
        return {k: v if isinstance(v, list) else [v] for k, v in found.items() if v is not None}

    inputs = given([*options.reads, *options.read_folders])
    outputs = given(options.writes)
    check_inputs(inputs, options.read_folders)
    check_outputs(
        {name: (path, options.writes[name]) for name, (path,) in outputs.items()},
        [*chain(*inputs.values()), *getattr(options, "files", [])],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or after one clear line about what is wrong 2.

    1 stands for an error that is a fault of the program, whose traceback is saved, 130 for Ctrl-C.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    log = None
    try:
        try:
            options = parser().parse_args(arguments)
            if options.log:
                check_outputs({"log": (options.log, "log")})
            log = options.log
            # Jobs have lines of a log.
            is_job = options.run.__name__ not in chain(*GROUPS.values())
            if is_job or not sys.stderr.isatty():
                os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        finally:
            start_logging(log)
        _check_paths(options)
        options.run(options)
        sys.stdout.flush()
    except UserError as error:
        logger.error("error: %s", one_line(str(error)))
        return 2
    except KeyboardInterrupt:
        logger.error("error: interrupted; start again, and what is done is kept")
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError):
            # Python would try once more to write what is left when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        told = advice(error)
        logger.error("error: %s", one_line(told or unexpected(error, log)))
        return 2 if told else 1
    return 0
