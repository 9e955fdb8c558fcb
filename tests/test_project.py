"""What the project's own files say of each other."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "envs" / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def dependencies(*extras: str) -> list[str]:
    """Return what the package needs, and what these extras add to it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    added = (line for extra in extras for line in project["optional-dependencies"][extra])
    return [*project["dependencies"], *(line for line in added if not line.startswith("mend-icl"))]


def shell_blocks() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_both_kinds_of_environment_have_the_same_pins(kind) -> None:
    environment = yaml.safe_load((ROOT / f"workflow/envs/{kind}.yaml").read_text())
    wanted = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    pinned = {**pins("requirements-cpu.txt"), **pins(f"requirements-{kind}.txt")}
    assert len(wanted) > 10
    for line in wanted:
        name, version = line.split("==")
        assert pinned[name] == version


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_every_dependency_is_in_both_kinds_of_environment(kind) -> None:
    needed = dependencies("workflow", "report")
    wanted = {re.match(r"[\w-]+", line)[0].lower() for line in needed}
    environment = yaml.safe_load((ROOT / f"workflow/envs/{kind}.yaml").read_text())
    pinned = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert wanted <= {line.partition("==")[0].lower() for line in pinned}


def test_the_oldest_environment_has_the_lower_bounds() -> None:
    needed = dependencies("workflow", "report")
    bounds = [re.fullmatch(r"([\w-]+)>=([\d.]+)", line) for line in needed]
    assert pins("requirements-oldest.txt") == {bound[1]: bound[2] for bound in bounds}


def test_the_readme_has_the_two_commands_and_ci_runs_the_second() -> None:
    first, second = shell_blocks()
    assert first.splitlines()[-1] == "snakemake --cores 8 results/table2.csv"
    # One command a line: under `set -e` a failure before && would not stop the script.
    assert "&&" not in second
    checks = ["ruff check", "ruff format --check", "snakefmt --check", "lint-imports", "--lint"]
    for check in (*checks, "pytest"):
        assert check in second
    assert first.splitlines()[:4] == second.splitlines()[:4]
    script = (ROOT / ".ci/run").read_text()
    awk = re.search(r"block=\$\(awk '(.*?)' README\.md\)", script, flags=re.DOTALL)[1]
    found = subprocess.run(
        ["awk", awk, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == second


def test_the_architecture_names_every_room_and_nothing_that_is_not_there() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rooms = {path.stem for path in (ROOT / "mend").iterdir() if path.name[0] not in "_."}
    rows = re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == rooms
    named = set(re.findall(r"`(mend(?:\.\w+)+)`", text))
    assert len(named) > 15
    for name in named:
        path, last = ROOT.joinpath(*name.split(".")[:-1]), name.rpartition(".")[2]
        file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        assert re.search(rf"^(?:def|class) {last}\b", file.read_text(), flags=re.MULTILINE), name


def test_a_commit_is_checked_as_ci_checks() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    second = shell_blocks()[1]
    for hook in hooks:
        program = hook["entry"].split(" --")[0]
        assert program in second or program == "python -m mend.configuration.schema"


def test_the_workflow_catalogue_finds_what_it_reads() -> None:
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"] == {"conda": True}
    assert (ROOT / "workflow/Snakefile").is_file()
    told = (ROOT / "config/README.md").read_text()
    for file in (ROOT / "config").glob("*.yaml"):
        assert f"| `{file.name}` |" in told, file


def test_the_changelog_and_the_citation_have_this_version() -> None:
    version = re.search(r'^__version__ = "(.*)"', (ROOT / "mend/__init__.py").read_text(), re.M)[1]
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda page: page.stem,
)
def test_files_that_are_named_are_there(page) -> None:
    text = page.read_text()
    folders = "mend|config|workflow|profiles|envs|tests|docs|examples|benchmarks"
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", text):
        made_by_the_reader = "my_method" in path
        assert made_by_the_reader or (ROOT / path).exists(), path
