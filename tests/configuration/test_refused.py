"""What a configuration may not hold, by its kind: told before any job, with the key."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import yaml
from helpers.configurations import ROOT, default_values, put

from mend.configuration.choices import POCKET_TRAIN_ROWS
from mend.configuration.loading import load_configuration, read_values
from mend.configuration.paths import JobPath, parse_job_path, parse_settings, settings_text
from mend.errors import UserError
from mend.pocket.universe import LOW_RESOURCE_ROWS

STOPPING = {"every": 2, "patience": 2, "rows_per_task": 1, "seed": 13}


@pytest.fixture
def values(tmp_path, monkeypatch) -> dict:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "mend").symlink_to(ROOT / "mend")
    return default_values(tmp_path)


def refused(values: dict, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_configuration(values)
    for word in words:
        assert word in str(caught.value)
    assert all(len(line) <= 400 for line in str(caught.value).splitlines())


COUNTS = (
    *("benchmark/shots", "benchmark/test_rows", "benchmark/corpus/window", "pocket/documents"),
    *("protocol/longest_example", "protocol/longest_context/llm", "methods/mend/length"),
    *("training/pretrain/steps", "training/finetune/batch_size", "training/finetune/log_every"),
    *("training/pretrain/micro_batch_size", "training/finetune/early_stopping/patience"),
)
SEEDS = ("benchmark/seed", "training/seed", "pocket/seed", "training/finetune/early_stopping/seed")
SHARES = ("pocket/wrong_answers", "training/pretrain/beta", "training/finetune/learning_rate")


@pytest.mark.parametrize("key", [*COUNTS, *SEEDS])
@pytest.mark.parametrize(
    "value", [4.0, 1e6, True, "4", -1, 2**31, 2**64, pytest.param(10**5000, id="huge")]
)
def test_whole_numbers_are_whole_and_bounded(values, key, value) -> None:
    if value == 2**31 and key in COUNTS:
        value = 10**10
    refused(put(values, key, value), key.replace("/", "."))


@pytest.mark.parametrize("key", [*SHARES, "training/finetune/weight_decay", "benchmark/shots"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_numbers_are_finite_and_bounded(values, key, value) -> None:
    refused(put(values, key, value), key.replace("/", "."))


def test_no_hint_suggests_what_is_refused(values) -> None:
    refused(put(values, "training/pretrain/steps", 4.0), "4.0 is not a whole number", "write 4")
    refused(put(values, "training/pretrain/steps", "1e3"), "write 1000 without quotes")
    refused(put(values, "training/finetune/learning_rate", "3e-4"), "write 3.0e-4")
    for given in ("4.0", "nan", "1e400", "4.5"):
        with pytest.raises(UserError) as caught:
            load_configuration(put(values, "training/pretrain/steps", given))
        assert "write 4.0" not in str(caught.value)
        assert "write nan" not in str(caught.value)
        assert "write inf" not in str(caught.value)


@pytest.mark.parametrize("value", [0.6666667, 0.66666671, 1e-7, 1.0000001e-5, 5e-324, 0.1 + 0.2])
def test_names_keep_all_digits(value) -> None:
    for settings in ({"pretrain.beta": value}, {"finetune.learning_rate": [value, 1.0]}):
        assert parse_settings(settings_text(settings)) == settings
    job = JobPath("teacher", "a", stage="pretrain", beta=value)
    assert parse_job_path(str(job)).beta == value


def test_settings_that_differ_in_the_last_digit_are_two_runs(values) -> None:
    rates = [1e-5, 1.0000001e-5]
    study = {"llms": ["pocket-gpt2"], "methods": ["mend"], "partitions": ["qa_to_qa"]}
    study["vary"] = {"finetune.learning_rate": rates}
    values["studies"]["mine"] = study
    load_configuration(values)
    names = {settings_text({"finetune.learning_rate": rate}) for rate in rates}
    assert len(names) == 2


@pytest.mark.parametrize("name", ["1", "1.0", "1e5", "true", "nan", "inf", "1_000", "null"])
def test_a_templates_name_may_look_like_a_number(values, name) -> None:
    assert parse_settings(settings_text({"template": name})) == {"template": name}
    values["templates"] = {name: {"input_output": " ", "demonstrations": " "}}
    study = {"llms": ["pocket-gpt2"], "methods": ["mend"], "partitions": ["qa_to_qa"]}
    values["studies"]["mine"] = {**study, "set": {"template": name}}
    load_configuration(values)


def test_no_template_is_called_none(values) -> None:
    values["templates"]["none"] = {"input_output": " ", "demonstrations": " "}
    refused(values, "templates.none")


@pytest.mark.parametrize("part", ["llms", "templates", "studies", "figures", "methods"])
@pytest.mark.parametrize("name", ["name\n", "a\nb", "a/b", "..", "", "-a", "x" * 300, "{x}", "é"])
def test_names_are_safe_as_parts_of_paths(values, part, name) -> None:
    content = values.setdefault(part, {"x": ["table2"]})
    content[name] = next(iter(content.values()))
    refused(values, f"{part}")


RESERVED = (
    *("data", "runs", "logs", "benchmarks", "local-models", "pocket-models", "efficiency"),
    *("attention", "report", "plan", "table1", "figure3", "Report", "table2.spec", "table2.png"),
    *("candidates", "table2.learning-curves", "mine.divergence", "divergence"),
)


@pytest.mark.parametrize("name", RESERVED)
def test_a_study_is_named_like_nothing_that_the_workflow_makes(values, name) -> None:
    values["studies"][name] = {**values["studies"]["table2"], "layout": "list"}
    refused(values, f"{name}: the workflow makes something else of this name")


def test_names_that_differ_in_capitals_alone_are_refused(values) -> None:
    values["llms"]["Pocket-GPT2"] = values["llms"]["pocket-gpt2"]
    refused(values, "llms: pocket-gpt2, Pocket-GPT2 would be one file")


RESULTS = (
    *("~/out", "a/~", "-r", "--cores", "/", "//", ".", "..", "../out", "a/../b", "./a", "a//b"),
    *("{x}", "a{x}b", "a\0b", "a\nb", "x" * 256, "x/" * 600, "", " ", "a ", "a*", "a[b]", "a?"),
    *("/dev/null", "/dev/shm/../null", "/proc/self", "file", "file/out", "loop", "foreign", "mend"),
    *("mend/out", "rows", 5, ["results"]),
)


@pytest.mark.parametrize("path", RESULTS)
def test_results_is_a_new_folder_or_one_that_we_made(values, path, tmp_path) -> None:
    here = tmp_path / "here"
    (here / "file").touch()
    (here / "loop").symlink_to("loop")
    (here / "foreign").mkdir()
    (here / "foreign" / "thesis.html").touch()
    (here / "rows" / "data" / "task").mkdir(parents=True)
    before = sorted(here.rglob("*"))
    refused(put(values, "results", path), "results")
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("path", ["out", "a/b/c", "with space", "ümlaut", "out/", "made", "nested"])
def test_other_results_folders_are_taken(values, path, tmp_path) -> None:
    made = tmp_path / "here" / "made"
    (made / "logs").mkdir(parents=True)
    (made / "table2.csv").touch()
    (tmp_path / "here" / "nested" / "paper").mkdir(parents=True)
    assert load_configuration(put(values, "results", path)).results == path.rstrip("/")


PATHS = (
    *("llms/pocket-gpt2/path", "llms/pocket-gpt2/distiller/path", "benchmark/task_list"),
    *("benchmark/tasks/folder", "benchmark/corpus/folder"),
)


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize(
    "path", ["a{x}", "~/a", "-a", "x" * 300, "a\0b", "a\n", "y/" * 100_000, " a"]
)
def test_every_path_is_one_that_the_workflow_can_name(values, key, path) -> None:
    refused(put(values, key, path), key.replace("/", "."))


@pytest.mark.parametrize("what", ["folder", "fifo", "device", "big", "loop", "absent", "binary"])
@pytest.mark.parametrize("place", ["task_list", "config.json", "configuration"])
def test_only_regular_files_of_a_sane_size_are_read(values, what, place, tmp_path) -> None:
    path = tmp_path / ("config.json" if place == "config.json" else "named")
    path = tmp_path / "gpt2" / "config.json" if place == "config.json" else path
    path.unlink(missing_ok=True)
    match what:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(path.name)
        case "big":
            with path.open("wb") as file:
                file.truncate(2**40)
        case "binary":
            path.write_bytes(b"\xff\xfe\x00")
    if place == "configuration":
        with pytest.raises(UserError, match="named: "):
            read_values(path)
    else:
        if place == "task_list":
            values["benchmark"]["task_list"] = str(path)
        refused(values, f"{path}: ")


def test_nesting_and_sizes_have_a_limit(values, tmp_path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("a: " + "[" * 20_000)
    with pytest.raises(UserError, match="cannot be read"):
        read_values(file)
    file.write_text(
        "a: &a [x]\n"
        + "".join(
            f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
            for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
        )
    )
    refused({**values, **read_values(file)}, "more than 50,000 values")
    loop: list = []
    loop.append(loop)
    refused({**values, "pocket": loop}, "nested too deeply")
    refused({**values, "x" * 200_000: 1}, "too long")
    refused(put(values, "studies/table2/title", "x" * 200_000), "studies.table2.title: 200,000")
    refused(put(values, "studies/table2/title", "\x1b[31m"), "studies.table2.title")
    many = {f"unknown-{number}": 1 for number in range(1000)}
    with pytest.raises(UserError) as caught:
        load_configuration({**values, **many})
    assert len(str(caught.value).splitlines()) < 30
    assert "more of this kind" in str(caught.value)


@pytest.mark.parametrize(
    "points",
    [[[1, 2], [3]], [{}], [None], [True], [1, 1.0], [1, "1"], [], {}, 4, "x", {"a": 1}, {None: {}}],
)
def test_axes_are_lists_of_values_or_named_settings(values, points) -> None:
    study = {"llms": ["pocket-gpt2"], "methods": ["mend"], "partitions": ["qa_to_qa"]}
    values["studies"]["mine"] = {**study, "vary": {"length": points}}
    refused(values, "studies.mine.vary")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods/mend": {}}, "methods.mend.length: missing"),
        ({"methods/mend": {"length": 4}}, "methods.mend: it has no stage"),
        ({"methods/zero-shot": {"finetune": {"losses": {"pred": 1.0}}}}, "methods.zero-shot.finet"),
        ({"studies/table2/methods": ["zero-shot", "vanilla-icl"]}, "table 5"),
        ({"studies/table2": None}, "studies.table2: missing"),
        (
            {"attention": {"llms": ["pocket-gpt2"], "partition": "qa_to_qa"}, "methods/mend": None},
            "attention: it measures mend",
        ),
        (
            {
                "efficiency": {"llms": ["pocket-gpt2"], "partitions": ["qa_to_qa"]},
                "methods/prompt-tuning": None,
            },
            "efficiency: it measures prompt-tuning",
        ),
        ({"efficiency": {"llms": ["other"], "partitions": ["qa_to_qa"]}}, "efficiency.llms: other"),
        (
            {
                "attention": {"llms": ["pocket-gpt2"], "partition": "qa_to_qa"},
                "benchmark/partitions": ["hr_to_lr"],
                "studies/table2/partitions": ["hr_to_lr"],
            },
            "attention.partition: qa_to_qa",
        ),
        (
            {
                "llms/pocket-gpt2/training": {
                    "finetune": {"early_stopping": {**STOPPING, "seed": 7}}
                }
            },
            "llms.pocket-gpt2.training.finetune.early_stopping.seed: 7",
        ),
        (
            {
                "llms/pocket-gpt2/training": {
                    "finetune": {"early_stopping": {**STOPPING, "partition": "qa_to_qa"}}
                }
            },
            "llms.pocket-gpt2.training.finetune.early_stopping.partition",
        ),
        (
            {"llms/pocket-gpt2/methods": {"mendd": {}}},
            "llms.pocket-gpt2.methods.mendd: it is not in methods (did you mean mend?)",
        ),
        (
            {"llms/pocket-gpt2/methods": {"prompt-tuning": {"pretrain": {"steps": 3}}}},
            "prompt-tuning.pretrain: methods.prompt-tuning has no such stage",
        ),
        ({"training/pretrain/steps": 10**9}, "pretrain.steps times pretrain.batch_size"),
        ({"llms/pocket-gpt2/paper_llm": "gpt2-lage"}, "llms.pocket-gpt2.paper_llm"),
        ({"llms/pocket-gpt2/path": "a--b/c"}, "llms.pocket-gpt2.path: there is no folder a--b/c"),
        (
            {"llms/pocket-gpt2/path": "mend/pocket"},
            "llms.pocket-gpt2.path: mend/pocket/config.json: no such file",
        ),
        ({"llms/pocket-gpt2/revision": "a b"}, "llms.pocket-gpt2.revision"),
        (
            {"benchmark/tasks": {"source": "hub", "repository": "a/b/c", "revision": "main"}},
            "benchmark.tasks.repository",
        ),
        (
            {"benchmark/dense_retrieval": {"model": "./no", "kind": "language-model"}},
            "benchmark.dense_retrieval.model",
        ),
        (
            {
                "llms/pocket-gpt2/path": "mend/pocket/models/gpt2",
                "llms/pocket-gpt2/query_in": "encoder",
            },
            "llms.pocket-gpt2.query_in",
        ),
        ({"training/pretrain/beta": 0.01}, "pretrain.beta: pretraining predicts 127 tokens"),
        (
            {
                "local_models": {
                    "vocabulary": 300,
                    "positions": 64,
                    "llm": {"layers": 1, "width": 10, "heads": 3},
                    "distiller": {"layers": 1, "width": 4, "heads": 2},
                    "steps": 1,
                    "batch_size": 1,
                    "learning_rate": 0.1,
                    "seed": 0,
                }
            },
            "local_models.llm",
        ),
    ],
)
def test_parts_that_need_each_other_are_checked_together(values, changes, words) -> None:
    for key, value in changes.items():
        parent, _, last = key.rpartition("/")
        place = values
        for part in parent.split("/") if parent else ():
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    refused(values, words)


@pytest.mark.parametrize(
    "file", ["text.md", "text.parquet", "text.jsonl.bz2", "text", "folder.txt"]
)
def test_what_no_corpus_can_be_is_told(values, file, tmp_path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "folder.txt").mkdir()
    (tmp_path / "text" / file).exists() or (tmp_path / "text" / file).touch()
    values["benchmark"]["tasks"] = {"source": "hub", "repository": "a/b", "revision": "main"}
    corpus = {"source": "folder", "folder": str(tmp_path / "text"), "files": [file], "window": 64}
    values["benchmark"]["corpus"] = corpus
    refused(values, "benchmark.corpus.files")


def test_a_run_whose_folders_name_would_be_too_long_is_refused(values) -> None:
    study = {"llms": ["pocket-gpt2"], "methods": ["mend"], "partitions": ["qa_to_qa"]}
    rates = [round(1e-5 * (1 + number / 7), 12) for number in range(60)]
    values["studies"]["mine"] = {**study, "select": {"finetune.learning_rate": rates}}
    refused(values, "studies.mine: the settings of a run with mend", "too long")


def test_studies_have_a_largest_size(values) -> None:
    study = {"llms": ["pocket-gpt2"], "methods": ["mend"], "partitions": ["qa_to_qa"]}
    lengths, shots = list(range(1, 90)), list(range(1, 17))
    vary = {"length": lengths, "shots": shots, "training.seed": list(range(20))}
    values["studies"]["mine"] = {**study, "vary": vary}
    refused(values, "studies.mine.vary: its axes make 28480 runs")


def test_later_files_and_options_pass_the_same_door(values, tmp_path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(yaml.safe_dump(values))
    second.write_text("results: ~/out\ntraining: {pretrain: {steps: .nan}}\n")
    with pytest.raises(UserError) as caught:
        load_configuration(read_values(first, second), [first, second])
    assert f"{second}: training.pretrain.steps: nan" in str(caught.value)
    second.write_text("results: ~/out\n")
    with pytest.raises(UserError, match=f"{second}: results: "):
        load_configuration(read_values(first, second), [first, second])


def test_a_readers_own_folder_is_never_written_to(values, tmp_path) -> None:
    """Rows within what the results folder would make are refused."""
    rows = tmp_path / "out" / "data"
    shutil.copytree(tmp_path / "gpt2", rows / "task")
    values["benchmark"]["tasks"] = {"source": "folder", "folder": str(tmp_path / "out")}
    refused(put(values, "results", str(tmp_path / "out")), "results: ")


def test_a_distiller_of_another_vocabulary_is_refused(values, tmp_path) -> None:
    for folder, words in (("gpt2", {"a": 0}), ("gpt2-small", {"b": 0})):
        content = json.dumps({"model": {"vocab": words}})
        (tmp_path / folder / "tokenizer.json").write_text(content)
    refused(values, "llms.pocket-gpt2.distiller.path: ", "has another vocabulary than")


def test_a_key_that_is_there_twice_is_told_with_its_line(values, tmp_path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("results: a\nbenchmark:\n  shots: 1\n  shots: 2\n")
    for read in (lambda: read_values(file), lambda: load_configuration(values, [file])):
        with pytest.raises(UserError, match=f"{file}, line 4: .*the key shots is there twice"):
            read()
    file.write_text("a: &a {x: 1}\nb: {<<: *a, x: 2}\n")
    assert read_values(file)["b"] == {"x": 2}


def test_what_local_files_only_keeps_from_downloading_must_be_there(values, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    values["llms"]["pocket-gpt2"]["path"] = "some/model"
    refused(values, "llms.pocket-gpt2.path: there is no folder some/model, and local_files_only")
    (tmp_path / "cache" / "models--some--model").mkdir(parents=True)
    load_configuration(values)
    values["llms"]["pocket-gpt2"]["path"] = "other/model"
    load_configuration(put(values, "llms/pocket-gpt2/local_files_only", False))


def test_documents_are_joined_only_by_a_token_that_there_is(values, tmp_path) -> None:
    (tmp_path / "gpt2" / "tokenizer_config.json").write_text("{}")
    refused(
        put(values, "protocol/pretraining_chunks", "fixed-windows"),
        "protocol.pretraining_chunks: fixed-windows, but",
        "names no eos_token",
    )


def test_an_llm_that_figure_5_alone_is_of_is_checked_as_those_of_studies(values) -> None:
    values["llms"]["other"] = {**values["llms"]["pocket-gpt2"], "training": {}}
    values["llms"]["other"]["training"]["pretrain"] = {"beta": 0.01}
    values["attention"] = {"llms": ["other"], "partition": "qa_to_qa"}
    refused(values, "llms.other, methods.mend: pretrain.beta")
    values["llms"]["other"]["training"] = {"finetune": {"early_stopping": None}}
    values["methods"]["mend"]["select"] = {"finetune.learning_rate": [1e-5, 1e-4]}
    refused(values, "attention: dev scores are to choose finetune.learning_rate")


@pytest.mark.parametrize(
    "content", [{"vary": {"": {"a": {}}}}, {"vary": {"a": {" ": {}}}}, {"runs": {"": {}}}]
)
def test_what_tables_show_has_a_name(values, content) -> None:
    study = {"llms": ["pocket-gpt2"], "methods": ["mend"], "partitions": ["qa_to_qa"]}
    values["studies"]["mine"] = {**study, **content}
    refused(values, "studies.mine.")


def test_no_claim_compares_a_thing_with_itself(values) -> None:
    point = {"run": "MEND"}
    claim = {"text": "MEND is above itself", "higher": point, "lower": point}
    refused(put(values, "studies/table2/claims", [claim]), "studies.table2.claims[0]: it compares")
    cost = {"text": "MEND costs less", "quantity": "flops", "lower": "mend", "higher": "mend"}
    values["efficiency"] = {"llms": ["pocket-gpt2"], "partitions": ["qa_to_qa"], "claims": [cost]}
    refused(values, "efficiency.claims[0]: it compares mend with itself")


def test_the_pocket_corpus_has_one_column(values) -> None:
    refused(put(values, "benchmark/corpus/column", "input"), "benchmark.corpus.column: the pocket")


def test_an_episode_is_no_longer_than_its_task(values) -> None:
    assert POCKET_TRAIN_ROWS == LOW_RESOURCE_ROWS
    most = POCKET_TRAIN_ROWS - values["benchmark"]["shots"]
    load_configuration(put(values, "training/finetune/queries_per_episode", most))
    refused(put(values, "training/finetune/queries_per_episode", most + 1), "queries_per_episode")


def test_figure_5_without_table_2_is_told(values) -> None:
    values["attention"] = {"llms": ["pocket-gpt2"], "partition": "qa_to_qa"}
    values["studies"] = {"mine": {**values["studies"]["table2"], "layout": "list"}}
    refused(values, "studies.table2: missing")


@pytest.mark.parametrize("layers", [[], [1, 0], [0, 0], [-1], [0.5], [True], "0-7", [0, 2]])
def test_a_distillers_blocks_rise_and_are_there(values, tmp_path, layers) -> None:
    file = tmp_path / "gpt2-small" / "config.json"
    config = json.loads(file.read_text()) | {"n_layer": 2}
    file.write_text(json.dumps(config))
    key = "llms/pocket-gpt2/distiller/layers"
    refused(put(values, key, layers), "llms.pocket-gpt2.distiller.layers")
    load_configuration(put(values, key, [1]))


def test_a_model_of_a_gguf_file_is_one_of_gguf_models(values) -> None:
    """Its folder is made by a job, so that it need not be there, also without the network."""
    file = {"files": ["some_weights/a.gguf"], "sha256": "0" * 64}
    values = put(values, "gguf_models", {"tiny": file})
    made = f"{values['results']}/gguf-models"
    for key in ("path", "distiller/path"):
        values = put(values, f"llms/pocket-gpt2/{key}", f"{made}/tiny")
    load_configuration(put(values, "llms/pocket-gpt2/local_files_only", True))
    refused(put(values, "llms/pocket-gpt2/path", f"{made}/other"), "llms.pocket-gpt2.path", "tiny")
    refused(put(values, "gguf_models/tiny/sha256", "abc"), "tiny.sha256", "64 of the digits")
    refused(put(values, "gguf_models/tiny/files", []), "gguf_models.tiny.files")


def with_method(values: dict, name: str = "key-norm", **content) -> dict:
    values = put(values, f"methods/{name}", content or {"keep": 8})
    names = values["studies"]["table2"]["methods"]
    return put(values, "studies/table2/methods", [*names, name])


def test_what_is_measured_besides_is_a_method_that_the_llm_can_have(values) -> None:
    values = put(values, "methods/key-norm", {"keep": 8})
    values["efficiency"] = {"llms": ["pocket-gpt2"], "partitions": ["qa_to_qa"]}
    values["efficiency"]["methods"] = ["key-norm"]
    load_configuration(values)
    folder = values["llms"]["pocket-gpt2"]["path"]
    with open(f"{folder}/config.json", "w", encoding="utf-8") as file:
        json.dump({"model_type": "t5", "is_encoder_decoder": True}, file)
    refused(values, "llms.pocket-gpt2: key-norm makes keys and values", "encoder")
    values["efficiency"]["methods"] = ["other"]
    refused(values, "efficiency: it measures other, which is not in methods")


@pytest.mark.parametrize(
    ("method", "content", "made"),
    [
        ("key-norm", {"keep": 8}, "keys and values"),
        ("task-vector", {"layer": 1}, "additions to a state"),
        (
            "generative-adapter",
            {"rank": 2, "finetune": {"losses": {"reconstruction": 1.0}}},
            "low-rank weights",
        ),
    ],
)
def test_what_decoders_alone_read_is_not_for_an_encoder(values, method, content, made) -> None:
    values = with_method(values, method, **content)
    load_configuration(values)
    folder = values["llms"]["pocket-gpt2"]["path"]
    with open(f"{folder}/config.json", "w", encoding="utf-8") as file:
        json.dump({"model_type": "t5", "is_encoder_decoder": True}, file)
    refused(values, f"llms.pocket-gpt2: {method} makes {made}", "encoder")


def test_a_task_vector_is_of_a_block_that_the_llm_has(values) -> None:
    folder = values["llms"]["pocket-gpt2"]["path"]
    with open(f"{folder}/config.json", "w", encoding="utf-8") as file:
        json.dump({"model_type": "gpt2", "n_positions": 256, "n_layer": 2}, file)
    load_configuration(with_method(values, "task-vector", layer=1))
    refused(
        with_method(values, "task-vector", layer=2),
        "llms.pocket-gpt2: methods.task-vector.layer: the model has 2 blocks, 0 to 1",
    )


def test_low_rank_weights_of_groups_are_not_joined(values) -> None:
    content = {"rank": 2, "finetune": {"losses": {"pred": 1.0}}}
    values = with_method(values, "generative-adapter", **content)
    study = {"llms": ["pocket-gpt2"], "methods": ["generative-adapter"], "set": {"group": 4}}
    values = put(values, "studies/grouped", study | {"partitions": ["class_to_class"]})
    refused(values, "studies.grouped", "does not distil demonstrations into vectors")


def test_of_keys_and_values_no_oldest_tokens_fall_off(values) -> None:
    values = put(values, "protocol/demonstration_overflow", "oldest-tokens")
    load_configuration(values)
    refused(with_method(values), "key-norm makes keys and values", "demonstration_overflow")


def test_settings_that_do_not_go_together_are_told_for_a_study_too(values) -> None:
    study = {"llms": ["pocket-gpt2"], "partitions": ["class_to_class"]}
    snapkv = {**study, "methods": ["snapkv"], "vary": {"keep": [4, 8]}}
    refused(put(values, "studies/other", snapkv), "studies.other", "a window of 4", "keep is 4")
    segments = {**study, "methods": ["auto-compressor"], "vary": {"length": [7]}}
    refused(
        put(values, "studies/other", segments),
        "methods.auto-compressor: length 7 is not 4 segments",
    )
