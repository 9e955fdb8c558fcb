"""Made-up faults: whatever a configuration holds, it is a valid run or refused in clear lines."""

from __future__ import annotations

import copy
import csv
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from helpers.all_jobs import checked_specifications
from helpers.configurations import ROOT
from helpers.fuzzing import fuzzed, within
from helpers.mutations import VALUES, mutated
from hypothesis import given
from hypothesis import strategies as st

from mend.configuration.choices import PARTITIONS
from mend.configuration.loading import Configuration, load_configuration, read_values
from mend.data.layout import benchmark_files
from mend.data.preflight import with_present_tasks
from mend.errors import UserError
from mend.planning.plan import plan

SECONDS, LONGEST_LINE = 60, 400
YAML_TEXTS = (
    *("[" * 5000, "- " * 5000, "&a [*a]", "*a", "!!python/object:os.system", "!!set {a}"),
    *("\t", "\0", "%", "@", "`", "|", ">", "---", "...", "? ", ": ", "<<: *partitions"),
    "2020-01-01",
    *("!!binary aa==", "0o17", "1_000", "1:30", "=", "~", "\ufeff", "\x85", "'", '"', "#"),
    "{a: 1, a: 2}",
)
BASES = ("config.yaml", "config/metaicl-local.yaml", "config/paper.yaml", "config/pool-100.yaml")
BASES += ("config/smollm2.yaml",)


def hostile_folder(folder: Path) -> None:
    """Fill a folder with the repository's files that a configuration names, and with traps."""
    for name in ("mend", "config", "config.yaml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "unreadable").touch(mode=0)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    with (folder / "big").open("wb") as file:
        file.truncate(2**40)
    tasks = {"learn": "train", "also-learn": "train", "ask": "test", "also-ask": "test"}
    with (folder / "list.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["task", "type", "options", *PARTITIONS])
        for name, role in tasks.items():
            lines.writerow([name, "classification", "", *([role] * len(PARTITIONS))])
    names = [[name for name in tasks if tasks[name] == role] for role in ("train", "test")]
    row = {"task": "any", "input": "a word", "output": "yes", "options": ["yes", "no"]}
    for file in benchmark_files(*names, [13, 21, 42, 87, 100]):
        path = folder / "rows" / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{json.dumps(row)}\n" * 20)


@cache
def _bases() -> dict[str, dict]:
    found = {name: read_values(ROOT / name) for name in (*BASES[:3], BASES[4])}
    found[BASES[3]] = read_values(ROOT / BASES[2], ROOT / BASES[3])
    local = found[BASES[1]]["benchmark"]
    local["tasks"]["folder"], local["task_list"] = "rows", "list.csv"
    return found


def base_values() -> dict[str, dict]:
    """Return the repository's configurations, the one of a local folder with rows."""
    return copy.deepcopy(_bases())


def refused(configuration_of: Callable[[], Configuration]) -> bool:
    """Whether a configuration is refused, and that in clear lines."""
    try:
        configuration_of()
    except UserError as error:
        lines = str(error).splitlines()
    else:
        return False
    assert lines
    assert all(line.strip() and len(line) <= LONGEST_LINE for line in lines)
    return True


def read(values: dict) -> Configuration:
    """Read a configuration as the Snakefile does."""
    return with_present_tasks(load_configuration(values, ["some.yaml"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("configurations")
    hostile_folder(folder)
    return folder


@pytest.fixture(autouse=True)
def _inside(folder, monkeypatch) -> None:
    (folder / "some.yaml").write_text("{}\n")
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("name", BASES)
def test_every_job_of_a_good_configuration_has_a_whole_specification(name) -> None:
    assert len(checked_specifications(read(base_values()[name]))) > 20


@fuzzed(80)
@given(st.data())
def test_a_changed_configuration_is_refused_in_clear_lines_or_its_jobs_are_whole(
    data,
) -> None:
    _, values = data.draw(mutated(_bases()))
    with within(SECONDS):
        assert refused(lambda: read(values)) or checked_specifications(read(values))


ANYTHING = st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
MODEL_KEYS = (
    *("n_positions", "max_position_embeddings", "text_config", "alibi", "model_type", "n_embd"),
    *("architectures", "is_decoder", "is_encoder_decoder", "n_head", "n_layer", "vocab_size"),
)


@fuzzed(30)
@given(st.dictionaries(st.sampled_from(MODEL_KEYS), ANYTHING) | ANYTHING)
def test_a_models_config_may_hold_anything(content) -> None:
    Path("model").mkdir(exist_ok=True)
    (Path("model") / "config.json").write_text(json.dumps(content, default=str))
    values = base_values()["config.yaml"]
    values["llms"]["pocket-gpt2"]["path"] = "model"
    values["llms"]["pocket-t5"]["distiller"]["path"] = "model"
    with within(SECONDS):
        if not refused(lambda: read(values)):
            refused(lambda: plan(read(values)))


@fuzzed(30)
@given(st.data())
def test_a_task_list_may_hold_anything(data) -> None:
    lines = Path("list.csv").read_text().splitlines(keepends=True)
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        cells = lines[number].split(",")
        cells[data.draw(st.integers(0, len(cells) - 1))] = str(data.draw(VALUES))
        lines[number] = ",".join(cells)
    Path("damaged.csv").write_bytes("".join(lines).encode(errors="replace"))
    values = base_values()["config/metaicl-local.yaml"]
    values["benchmark"]["task_list"] = "damaged.csv"
    with within(SECONDS):
        assert refused(lambda: read(values)) or checked_specifications(read(values))


@fuzzed(30)
@given(st.data())
def test_a_configuration_file_may_hold_any_text(data) -> None:
    text = (ROOT / data.draw(st.sampled_from(BASES))).read_text()
    place, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 40))
    new = data.draw(st.sampled_from(YAML_TEXTS) | st.text(max_size=8))
    damaged = (text[:place] + new + text[place + length :]).encode(errors="surrogatepass")
    Path("damaged.yaml").write_bytes(damaged)
    with within(SECONDS):
        refused(lambda: load_configuration(read_values("damaged.yaml"), ["damaged.yaml"]))
