"""What the documentation shows is what happens: its code blocks are run, or read."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import unittest
from pathlib import Path

import pytest
import yaml
from snakemake.cli import get_argument_parser

from mend.cli import parser
from mend.configuration.loading import read_configuration

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def blocks(page: Path, *languages: str) -> list[str]:
    """Return a page's code blocks that are marked as one of some languages, "" as none."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [code for language, code in found if language in languages]


def commands(page: Path) -> list[str]:
    """Return the lines of a page's console blocks that begin with `$`, continued ones joined."""
    joined = "".join(blocks(page, "console")).replace("\\\n", " ")
    return re.findall(r"^\$ (.+)$", joined, flags=re.MULTILINE)


CONSOLE = sorted({command: page for page in PAGES for command in commands(page)}.items())


@pytest.mark.parametrize(("command", "page"), CONSOLE, ids=[command for command, _ in CONSOLE])
def test_a_command_of_a_console_block_works(command, page, clone) -> None:
    words = shlex.split(command)
    modules = {"python": [], "snakemake": ["-m", "snakemake"], "mend": ["-m", "mend"]}
    assert words[0] in modules, f"{page.name}: mark what cannot be run here as another block"
    if words[0] == "snakemake" and "-n" not in words:
        words.insert(1, "-n")
    done = subprocess.run(
        [sys.executable, *modules[words[0]], *words[1:]],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{page.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_yaml_blocks_are_yaml_and_files_that_commands_name_are_there(page) -> None:
    for block in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)
    named = "\n".join(blocks(page, "", "bash", "console"))
    for path in re.findall(r"\b(?:config|envs|profiles|benchmarks|tests|examples)/[\w./-]+", named):
        if not re.match(r".*results/", path):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_other_blocks_are_ones_that_the_programs_take(page) -> None:
    """They take long, or need what is not here; so they are parsed alone."""
    parsers = {"snakemake": get_argument_parser(), "mend": parser()}
    joined = "".join(blocks(page, "", "bash")).replace("\\\n", " ")
    for line in re.findall(r"^(?:snakemake|mend) .*$", joined, flags=re.MULTILINE):
        name, *words = shlex.split(line, comments=True)
        if "..." not in words:
            words = words[: words.index(">")] if ">" in words else words
            parsers[name].parse_args(words)


STUDIES = blocks(ROOT / "docs/studies.md", "yaml")


@pytest.mark.parametrize("block", STUDIES, ids=lambda block: block.split("\n")[1].strip(" :"))
def test_a_block_of_the_page_on_studies_is_a_configuration(block, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    file = tmp_path / "mine.yaml"
    file.write_text(block)
    assert read_configuration("config.yaml", file).values.studies


# The block of extending.md is a file, which the workflow's tests run.
SESSIONS = [page for page in PAGES if page.stem != "extending" and blocks(page, "python")]


@pytest.mark.parametrize("page", SESSIONS, ids=lambda page: page.stem)
def test_the_python_blocks_of_a_page_are_one_session_that_works(
    page, used_clone, monkeypatch
) -> None:
    sybil = pytest.importorskip("sybil", reason="the documentation's tools are not installed")
    from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

    monkeypatch.chdir(used_clone)
    parsers = [PythonCodeBlockParser(), SkipParser()]
    examples = list(sybil.Sybil(parsers).parse(page).examples())
    assert len(examples) == len(blocks(page, "python")) + page.read_text().count("<!-- skip: next")
    for example in examples:
        try:
            example.evaluate()
        except unittest.SkipTest:
            continue
