"""The command line: one command for each rule of the workflow, usable by hand."""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from mend import commands
from mend.errors import UserError
from mend.progress import logger, start_logging
from mend.warm import COMMANDS


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

    paths(command(commands.pocket_world), "output")
    models = command(commands.pocket_models, spec=False)
    paths(models, "output")
    models.add_argument("--steps", type=int, help="stop early: a test of the recipe")
    paths(command(commands.download_benchmark), "output")
    paths(command(commands.download_corpus), "output")
    paths(command(commands.local_models), "folder", "output")
    paths(command(commands.tasks), "folder", "output")
    sub = command(commands.chunks)
    sub.add_argument("--files", type=Path, nargs="+", required=True)
    paths(sub, "output")
    paths(command(commands.train_episodes), "tasks", "output")
    sub = command(commands.evaluation_episodes)
    sub.add_argument("--split", choices=("dev", "test"), required=True)
    paths(sub, "tasks", "output")
    sub = command(commands.teacher)
    paths(sub, "output")
    paths(sub, "chunks", "episodes", "tasks", required=False)
    sub.add_argument("--threads", type=int, default=1)
    sub = command(commands.train)
    paths(sub, "output")
    paths(sub, "chunks", "episodes", "tasks", "initial", "dev", "teacher", required=False)
    sub.add_argument("--threads", type=int, default=1)
    sub.add_argument(
        "--processes", type=int, default=1, help="train data-parallel in so many processes"
    )
    sub = command(commands.predict)
    paths(sub, "episodes", "tasks", "output")
    paths(sub, "weights", required=False)
    sub.add_argument("--threads", type=int, default=1)
    paths(command(commands.efficiency), "episodes", "tasks", "output")
    sub = command(commands.attention)
    paths(sub, "episodes", "tasks", "weights", "output")
    sub.add_argument("--threads", type=int, default=1)
    for run in (commands.table2, commands.study):
        sub = command(run)
        sub.add_argument("--predictions", type=Path, nargs="+", required=True)
        sub.add_argument("--records", type=Path, nargs="*", default=[])
        paths(sub, "csv", "parquet", "html", *(["claims"] if run is commands.study else []))
    paths(command(commands.table1), "tasks", "csv", "parquet", "html")
    paths(command(commands.table5), "csv", "parquet", "html")
    paths(command(commands.report), "output")
    sub = command(commands.figure, spec=False)
    for name in ("specs", "tables"):
        sub.add_argument(f"--{name}", type=Path, nargs="+", required=True)
    paths(sub, "png")
    paths(sub, "parquet", required=False)
    for run in (commands.figure3, commands.figure5, commands.figure8):
        sub = command(run, spec=False)
        sub.add_argument("--parquets", type=Path, nargs="+", required=True)
        paths(sub, "png", "parquet")
    paths(command(commands.tensorboard, spec=False), "results", "output")
    sub = command(commands.plan, spec=False)
    sub.add_argument("targets", nargs="*", help="tables; all if none is named")
    sub.add_argument("--configfile", type=Path, nargs="+", default=[Path("config.yaml")])
    sub.add_argument("--device", default="h100", help="the GPU to plan for")
    return root


def main(arguments: Sequence[str] | None = None, *, warm: bool = False) -> int:
    """Run one command; return 0, or 2 after one clear line about what is wrong.

    warm: this process was forked for the command; see `mend.warm`.
    """
    options = parser().parse_args(arguments)
    set_library_defaults()
    keep_freed_memory()
    start_logging(options.log)
    try:
        options.run(options)
    except UserError as error:
        logger.error("error: %s", error)
        return 2
    if options.run.__name__ in COMMANDS:
        # Snakemake's benchmarks do not see a process that was forked elsewhere.
        logger.info("%s%s", used_resources(), ", started warm" if warm else "")
    return 0


def set_library_defaults() -> None:
    """Set the environment variables that libraries read, some of them when they are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def keep_freed_memory() -> None:
    """Let the C library keep what tensors free for the next ones, instead of handing it back.

    Else memory of some megabytes is asked of the system, and cleared by it, again and again, which
    takes a tenth to a fifth of the time of scoring on a processor. GNU's library alone has this.
    """
    trim_threshold, mmap_threshold = -1, -3  # as malloc.h names them
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 32 * 2**20)  # the most that it allows
        library.mallopt(trim_threshold, 2**31 - 1)


def used_resources() -> str:
    """Return what this process has used, in words."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # Kilobytes on Linux, bytes on macOS.
    megabytes = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    seconds = usage.ru_utime + usage.ru_stime
    return f"used {seconds:.1f} s of processor time, {megabytes:.0f} MB of memory at most"
