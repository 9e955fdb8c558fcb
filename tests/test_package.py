"""The package as it is installed: what its wheel holds, and that it needs no clone and no extra."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from mend.door import EXTRAS as EXTRAS_OF

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = ("data", "methods", "models", "evaluation", "training", "library")
"""The rooms of the library."""

OPTIONAL = {"bitsandbytes", "sentence_transformers"}
"""What keys of the configuration ask for, whose checks say how to install it."""

BLOCKED = """
from importlib.machinery import PathFinder

usual = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in {blocked!r} else usual(name, path, target)

PathFinder.find_spec = staticmethod(find_spec)
"""
"""Python that makes packages as if they were not installed."""


def distributions(lines: list[str]) -> set[str]:
    """Return the names in requirements, as packages_distributions has them."""
    return {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in lines}


NEEDED = distributions(PROJECT["dependencies"])
EXTRAS = {name: distributions(lines) for name, lines in PROJECT["optional-dependencies"].items()}


def importable(wanted: set[str]) -> set[str]:
    """Return the top-level modules that installed distributions of these names bring."""
    return {
        module
        for module, names in packages_distributions().items()
        if wanted & {name.lower().replace("_", "-") for name in names}
    }


def imports_of(file: Path) -> set[str]:
    """Return the top-level packages that a file imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a command; its output is text."""
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_that_is_imported_is_declared() -> None:
    declared = NEEDED.union(*EXTRAS.values())
    known = importable(declared) | {name.replace("-", "_") for name in declared} | OPTIONAL
    known |= {"mend", *sys.stdlib_module_names}
    for file in (ROOT / "mend").rglob("*.py"):
        assert imports_of(file) <= known, file


def test_the_library_needs_no_extra(tmp_path) -> None:
    blocked = importable(set().union(*EXTRAS.values()) - NEEDED - {"mend-icl", "setuptools"})
    assert {"snakemake", "datasets", "jinja2", "matplotlib"} <= blocked
    blocked -= {"pytest", "_pytest", "py"}
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in CORE
        for file in sorted((ROOT / "mend" / room).rglob("*.py"))
    ]
    assert len(modules) > 50
    code = BLOCKED.format(blocked=blocked) + "".join(f"import {name}\n" for name in modules)
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-2000:]
    code = BLOCKED.format(blocked=blocked) + "import mend.reporting.pages"
    assert "No module named" in run(sys.executable, "-c", code, cwd=ROOT).stderr  # the guard works


def test_for_all_that_an_extra_brings_it_is_known_which() -> None:
    of_core = importable(NEEDED) | {"mend", *sys.stdlib_module_names}
    for file in (ROOT / "mend").rglob("*.py"):
        for module in imports_of(file) - of_core - OPTIONAL:
            assert EXTRAS_OF[module] in EXTRAS, module


def test_what_is_missing_is_told_with_the_extra_that_brings_it(tmp_path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKED.format(blocked={"jinja2"}))
    (tmp_path / "spec.json").write_text('{"command": "c", "seed": 0, "runs": []}')
    outputs = [part for name in ("csv", "parquet", "html") for part in (f"--{name}", name)]
    command = [sys.executable, "-m", "mend", "table5", "--spec", "spec.json", *outputs]
    done = run(*command, cwd=tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert "jinja2 is not installed: pip install 'mend-icl[workflow]'" in line


def test_importing_mend_takes_no_heavy_library(tmp_path) -> None:
    code = "import sys, mend; print(*sys.modules)"
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    loaded = set(done.stdout.split())
    assert "mend" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "pandas", "pyarrow", "pydantic"}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The content of a wheel that was built of this clone, as pip unpacks it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("mend", "workflow"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    done = run(sys.executable, "-m", "pip", *build, cwd=source)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (source / "dist").iterdir()
    assert wheel.name.startswith("mend_icl-")
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def test_a_wheel_has_all_files_of_the_package_and_the_workflow(site) -> None:
    for name in ("mend", "workflow"):
        wanted = {
            str(file.relative_to(ROOT / name))
            for file in (ROOT / name).rglob("*")
            if file.is_file() and "__pycache__" not in file.parts and file.name != ".made-by-mend"
        }
        place = site / "mend" / ("workflow" if name == "workflow" else "")
        found = {str(file.relative_to(place)) for file in place.rglob("*") if file.is_file()}
        assert {path for path in wanted if not path.startswith("workflow/")} <= found
    assert (site / "mend/pocket/models/gpt2/model.safetensors").stat().st_size > 100_000
    (information,) = site.glob("*.dist-info")
    assert "mend = mend.__main__:main" in (information / "entry_points.txt").read_text()


def test_an_installed_package_needs_no_clone(site, tmp_path) -> None:
    shutil.copy(ROOT / "config.yaml", tmp_path)
    mend = [sys.executable, "-m", "mend"]
    planned = run(*mend, "plan", "table2", cwd=tmp_path, PYTHONPATH=str(site))
    assert planned.stdout.startswith("Plan of table2 on h100"), planned.stderr[-2000:]
    code = (
        "from mend import VanillaICL, load_llm; llm = load_llm('mend/pocket/models/gpt2');"
        "VanillaICL(llm).distill('a . b').save_pretrained('context')"
    )
    made = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    assert made.returncode == 0, made.stderr[-2000:]
    command = [*mend, "score", "context", "--query", "c", "--options", "d", "--json"]
    scored = run(*command, cwd=tmp_path, PYTHONPATH=str(ROOT))  # by the package in another place
    assert json.loads(scored.stdout)["best"] == "d", scored.stderr[-2000:]


def test_an_installed_package_has_the_workflow(site, tmp_path) -> None:
    made = run(sys.executable, "-m", "mend", "init", cwd=tmp_path, PYTHONPATH=str(site))
    assert made.returncode == 0, made.stderr[-2000:]
    snakemake = [sys.executable, "-m", "snakemake", "-n"]
    dry = run(*snakemake, cwd=tmp_path, PYTHONPATH=str(site))
    assert "predicting: my-llm vanilla-icl default all shots=4" in dry.stdout, dry.stderr[-999:]
    conda = run(*snakemake, "--sdm", "conda", cwd=tmp_path, PYTHONPATH=str(site))
    assert "error: --sdm conda is for a clone" in conda.stderr
