"""The configuration: what is refused, how it is filled in, and which tasks are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.configurations import ROOT, default_values, put

from mend.configuration.choices import PARTITIONS
from mend.configuration.job_specs import specification
from mend.configuration.loading import load_configuration, read_values
from mend.configuration.paths import DEFAULT
from mend.configuration.presets import fidelity, fidelity_page
from mend.configuration.runs import method_setup
from mend.configuration.schema import FILE, Protocol, json_schema
from mend.data.layout import benchmark_files
from mend.data.preflight import with_present_tasks
from mend.errors import UserError


@pytest.fixture
def values(tmp_path, monkeypatch) -> dict:
    monkeypatch.chdir(ROOT)
    return default_values(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("benchmark/test_rowz", 5, ["benchmark.test_rowz: unknown key (did you mean test_rows?)"]),
        ("protocol/metric", "metaicl", ["protocol.metric: unknown key (did you mean metrics?)"]),
        ("benchmark/shots", "16", ["benchmark.shots", '"16" is not a whole number', "write 16"]),
        ("benchmark/shots", 0, ["benchmark.shots", "0 is not allowed", "at least 1"]),
        ("benchmark/shots", True, ["benchmark.shots", "true is not a whole number"]),
        ("benchmark/seeds", "[1]", ["benchmark.seeds", "not a list", "--config passes text"]),
        ("benchmark/seeds", ["13"], ["benchmark.seeds[0]", '"13" is not a whole number']),
        ("benchmark/seeds", [13, 13], ["benchmark.seeds", "twice"]),
        ("benchmark/seeds", [7], ["benchmark.seeds", "13, 21, 42, 87, 100", "7"]),
        ("training/finetune/learning_rate", "3e-4", ["learning_rate", "write 3.0e-4"]),
        ("training/finetune/learning_rate", -1.0, ["learning_rate", "more than 0"]),
        ("training/pretrain/beta", 1.0, ["training.pretrain.beta", "less than 1"]),
        ("training/pretrain/steps", None, ["training.pretrain.steps: missing", "Optimiser steps"]),
        ("protocol/preset", "papr", ["protocol.preset", "did you mean paper?"]),
        ("protocol/task_mean", "median", ["protocol.task_mean", "plain, authors"]),
        ("benchmark/partitions", ["class_to_klass"], ["benchmark.partitions[0]", "class_to_class"]),
        ("methods/mond", {}, ["methods.mond: no such method", "did you mean mend?"]),
        ("methods/a b", {}, ["methods.a b: a name may hold"]),
        ("studies/table2/methods", ["mond"], ["studies.table2.methods", "did you mean mend?"]),
        ("studies/table2/llms", ["gpt5"], ["studies.table2.llms", "gpt5", "pocket-gpt2"]),
        ("methods/mend/length", None, ["methods.mend.length: missing"]),
        ("methods/mend/length", 120, ["methods.mend", "length (l) is 120", "128 positions"]),
        ("methods/mend/length", 130, ["methods.mend", "128 positions"]),
        ("methods/mend/pretrain/losses", {"pred": 1.0}, ["methods.mend.pretrain.losses.pred"]),
        ("methods/mend/finetune/losses", {"pred": 0, "distill": 0}, ["all weights are 0"]),
        ("protocol/longest_context", {"llm": 129, "distiller": 9}, ["longest_context.llm", "128"]),
        ("benchmark/corpus/window", 129, ["benchmark.corpus.window", "129", "128 positions"]),
        ("benchmark/task_list", "nothing.csv", ["nothing.csv"]),
        ("benchmark/tasks", {"source": "folder"}, ["benchmark.tasks.folder: missing"]),
        ("benchmark/tasks", {"source": "hub", "repository": "a/b"}, ["benchmark.tasks.revision"]),
        ("pocket", None, ["pocket: missing"]),
        (
            "benchmark/tasks",
            {"source": "folder", "folder": "no/such"},
            ["benchmark.tasks.folder", "no folder no/such", "--config"],
        ),
        (
            "benchmark/tasks",
            {"source": "hub", "repository": "a/b", "revision": "c"},
            ["benchmark.corpus.source", "pocket"],
        ),
        ("llms/pocket-gpt2/path", "no/such/model", ["llms.pocket-gpt2.path", "no/such/model"]),
        (
            "llms/pocket-gpt2/distiller/path",
            "./model",
            ["llms.pocket-gpt2.distiller.path", "no folder ./model"],
        ),
        ("training/finetune/early_stopping/seed", 7, ["early_stopping.seed", "benchmark.seeds"]),
        (
            "training/pretrain/early_stopping",
            {"rows_per_task": 1, "partition": "class_to_class", "sead": 1},
            ["training.pretrain.early_stopping.sead", "did you mean seed?"],
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(values, key, value, words) -> None:
    with pytest.raises(UserError) as caught:
        load_configuration(put(values, key, value))
    for word in words:
        assert word in str(caught.value)


def test_an_llm_is_either_in_8_bit_or_sharded(values) -> None:
    values["llms"]["pocket-gpt2"].update(int8=True, sharded=True)
    with pytest.raises(UserError, match="llms.pocket-gpt2.sharded: not together with int8"):
        load_configuration(values)


def test_the_unchanged_configuration_is_accepted(values) -> None:
    assert load_configuration(values).results == values["results"]


def test_all_problems_are_told_at_once_with_the_file_they_stand_in(values, tmp_path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("results: 5\nbenchmark: {shots: 16}\n")
    second.write_text("benchmark: {shots: many}\n")
    values = put(put(values, "results", 5), "benchmark/shots", "many")
    values = put(values, "benchmark/seed", "x")
    with pytest.raises(UserError) as caught:
        load_configuration(values, [first, second])
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["--config", "benchmark.seed"],
        [str(second), "benchmark.shots"],
        [str(first), "results"],
    ]


def test_parts_that_do_not_fit_each_other_are_told_at_once(values) -> None:
    values = put(values, "methods/mend/length", 120)
    values = put(values, "studies/table2/methods", ["mond"])
    wrong = {"llms": ["pocket-gpt2"], "methods": ["mend"], "partitions": ["class_to_class"]}
    wrong |= {"vary": {"shotz": [1, 2], "length": [0, 3]}}
    values = put(values, "studies/wrong", wrong)
    values = put(values, "benchmark/seeds", [7])
    with pytest.raises(UserError) as caught:
        load_configuration(values)
    keys = {line.partition(": ")[0] for line in str(caught.value).splitlines()}
    assert keys >= {
        "benchmark.seeds",
        "studies.table2.methods",
        "studies.wrong.vary.shotz.1.shotz",
        "studies.wrong.vary.length.0.length",
        "llms.pocket-gpt2, methods.mend",
    }
    assert "studies.wrong.vary.shotz.2.shotz" not in keys


def test_a_key_that_yaml_reads_as_a_number_is_refused(values) -> None:
    values["methods"][13] = {}
    with pytest.raises(UserError, match=r"13 must be text"):
        load_configuration(values)


def test_every_object_of_the_schema_is_strict_and_every_leaf_described() -> None:
    schema = json_schema()

    def check(rule: dict, place: str) -> None:
        if "properties" in rule:
            assert rule["additionalProperties"] is False, place
        for name, child in [*rule.get("properties", {}).items(), *rule.get("$defs", {}).items()]:
            described = child
            if "$ref" in child:
                described |= schema["$defs"][child["$ref"].rpartition("/")[2]]
            assert "description" in described, f"{place}.{name}"
            check(child, f"{place}.{name}")
        for child in [*rule.get("patternProperties", {}).values(), *rule.get("anyOf", ())]:
            check(child, f"{place}.*")

    check(schema, "")


@pytest.mark.parametrize("preset", ["default", "paper", "authors-code", "metaicl"])
def test_a_preset_fills_in_what_the_configuration_leaves_out(values, preset) -> None:
    values["protocol"] = {"preset": preset, "longest_context": {"llm": 77, "distiller": 77}}
    del values["training"]["finetune"]["learning_rate"]
    configuration = load_configuration(values)
    protocol = configuration.values.protocol.model_dump()
    for key, entry in fidelity().items():
        if "." not in key and key != "longest_context":
            assert protocol[key] == entry[preset], key
    at_test = {"metaicl": "per-seed"}.get(preset, "per-row")  # the paper does not say
    assert protocol["demonstrations_at_test"] == at_test
    assert protocol["longest_context"] == {"llm": 77, "distiller": 77}
    rate = {"authors-code": 1e-5, "metaicl": 1e-5}.get(preset, 5e-5)
    assert configuration.values.training.finetune.learning_rate == rate
    assert configuration.values.llms["pocket-gpt2"].int8 is False  # the configuration says so


GPT2_AND_OPT, T5 = ("gpt2-large", "gpt2-xl", "opt-6.7b"), ("t5-lm-large", "flan-t5-xl")


@pytest.mark.parametrize(
    ("preset", "int8", "dtypes"),
    [
        ("default", (False, False), ("bfloat16", ("float32", "bfloat16"))),
        ("paper", (True, False), ("float16", ("float32", "float32"))),
        ("authors-code", (True, True), ("float16", ("float32", "float32"))),
    ],
)
def test_at_the_papers_scale_each_llm_is_loaded_as_its_preset_says(preset, int8, dtypes) -> None:
    """Table 5: 8 bit and fp16 for GPT-2, neither for T5."""
    content = read_values(ROOT / "config/paper.yaml")
    content["benchmark"]["task_list"] = str(ROOT / content["benchmark"]["task_list"])
    content["protocol"] = {"preset": preset}
    llms = load_configuration(content).values.llms
    half, of_t5 = dtypes
    wanted = dict.fromkeys(GPT2_AND_OPT, (int8[0], half))
    wanted |= {name: (int8[1], dtype) for name, dtype in zip(T5, of_t5, strict=True)}
    assert {name: (llm.int8, llm.dtype) for name, llm in llms.items()} == wanted


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_an_llm_that_is_none_of_the_papers_is_loaded_whole(values, preset) -> None:
    values["protocol"] |= {"preset": preset}
    for key in ("paper_llm", "int8", "dtype"):
        del values["llms"]["pocket-gpt2"][key]
    llm = load_configuration(values).values.llms["pocket-gpt2"]
    assert (llm.int8, llm.dtype) == (False, "float32")


@pytest.mark.parametrize(
    ("llm", "batch", "steps"),
    [("gpt2-large", 8, 30000), ("opt-6.7b", 8, 30000)] + [(llm, 64, 5000) for llm in T5],
)
def test_pretraining_has_table_5s_batch_on_each_of_8_gpus(llm, batch, steps) -> None:
    content = read_values(ROOT / "config/paper.yaml")
    content["benchmark"]["task_list"] = str(ROOT / content["benchmark"]["task_list"])
    values = load_configuration(content).values
    stages = method_setup(values, llm, "mend", DEFAULT).stages
    assert (stages["pretrain"].batch_size, stages["pretrain"].steps) == (batch, steps)
    assert (stages["finetune"].batch_size, stages["finetune"].steps) == (8, 30000)


def test_distilling_no_token_is_refused(values) -> None:
    """With the query in the encoder no token of it is predicted; input distils no other."""
    values["llms"]["pocket-gpt2"]["query_in"] = "encoder"
    load_configuration(values)  # the answer's tokens are distilled
    values["protocol"]["distill_in_finetuning"] = "input"
    with pytest.raises(
        UserError, match=r"studies.table2: mend with pocket-gpt2 .*query_in"
    ) as told:
        load_configuration(values)
    assert "protocol.distill_in_finetuning: input" in str(told.value)
    values["methods"]["mend"]["finetune"]["losses"] = {"pred": 1.0, "distill": 0.0}
    load_configuration(values)


@pytest.fixture
def pooled(values, tmp_path) -> dict:
    """A configuration of local tasks, with a larger pool in files of their own."""
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "meta_eval_100shot-0.parquet").touch()
    files = {"source": "folder", "folder": str(tmp_path / "hub"), "files": ["meta_eval_1*.parquet"]}
    values["benchmark"] |= {"pool": 100, "pool_files": files}
    values["benchmark"]["tasks"] = {"source": "hub", "repository": "x/y", "revision": "main"}
    values["benchmark"]["corpus"] |= {"source": "hub", "repository": "x/z", "revision": "main"}
    values["benchmark"]["corpus"]["files"] = ["c.jsonl"]
    return values


def test_a_larger_pool_may_be_in_files_of_its_own(pooled) -> None:
    configuration = load_configuration(pooled)
    pool = specification(configuration, "data/pool")
    assert (pool.rows, pool.seeds, pool.missing_tasks) == (100, [13, 21, 42, 87, 100], "error")
    assert pool.tasks == specification(configuration, "data/tasks").test_tasks
    assert specification(configuration, "data/tasks").pool == 100
    assert specification(configuration, "data/benchmark").pool is None  # not among its files
    pooled["benchmark"]["pool_files"] = {
        "source": "hub",
        "repository": "x/all",
        "revision": "v1",
        "files": ["data/m-*.parquet"],
    }
    fetched = specification(load_configuration(pooled), "data/pool-files")
    assert fetched.model_dump() == {
        "repository": "x/all",
        "revision": "v1",
        "files": ["data/m-*.parquet"],
    }


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pool", None, "benchmark.pool: missing, and benchmark.pool_files needs it"),
        ("pool_files/folder", None, "benchmark.pool_files.folder: missing, and source folder"),
        ("pool_files/source", "hub", "benchmark.pool_files.repository: missing, and source hub"),
        ("pool_files/files", ["a.csv"], "a.csv is neither .parquet nor .jsonl"),
        ("pool_files/files", ["b*.parquet"], "benchmark.pool_files.files: there is no file"),
    ],
)
def test_pool_files_that_cannot_be_are_told(pooled, key, value, words) -> None:
    with pytest.raises(UserError, match=words):
        load_configuration(put(pooled, f"benchmark/{key}", value))


def test_the_pocket_tasks_have_no_other_pool(values, pooled) -> None:
    pooled["benchmark"]["tasks"] = {"source": "pocket"}
    with pytest.raises(UserError, match="benchmark.pool_files: the pocket tasks make their own"):
        load_configuration(pooled)


def test_the_100_rows_of_the_authors_data_are_one_file_more(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    values = read_values("config/paper.yaml", "config/pool-100.yaml")
    fetched = specification(load_configuration(values), "data/pool-files")
    assert fetched.repository == "bigheiniuJ/EvalMetaICLAll"


def test_the_schema_that_editors_read_is_up_to_date() -> None:
    assert json.loads(FILE.read_text(encoding="utf-8")) == json_schema()


def test_the_types_and_the_presets_have_the_same_protocol_keys() -> None:
    assert set(Protocol.model_fields) - {"preset"} == {key for key in fidelity() if "." not in key}


def test_the_fidelity_page_is_up_to_date() -> None:
    assert (ROOT / "docs/fidelity.md").read_text(encoding="utf-8") == fidelity_page()


@pytest.fixture
def folder_values(values, tmp_path):
    """The configuration with a folder of rows in MetaICL's layout and a task list of three."""
    folder = tmp_path / "rows"
    for file in benchmark_files(["train_me"], ["test_me", "lost"], [13]):
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"task": file.task, "input": "a b", "output": "yes", "options": ["yes", "no"]}
        path.write_text(f"{json.dumps(row)}\n" * 20)
    columns = ["task", "type", "options", *PARTITIONS]
    lines = [",".join(columns)]
    for task, role in (("train_me", "train"), ("test_me", "test"), ("lost", "test")):
        lines.append(",".join([task, "classification", "", *([role] * len(PARTITIONS))]))
    (tmp_path / "tasks.csv").write_text("\n".join(lines) + "\n")
    values["benchmark"].update(
        tasks={"source": "folder", "folder": str(folder)},
        corpus={"source": "folder", "files": ["data/*/*_16384_*"], "column": "input", "window": 64},
        task_list=str(tmp_path / "tasks.csv"),
        seeds=[13],
    )
    values["training"]["finetune"]["early_stopping"]["seed"] = 13
    return values


def test_a_folder_is_read_and_its_missing_tasks_named(folder_values) -> None:
    folder = Path(folder_values["benchmark"]["tasks"]["folder"])
    assert with_present_tasks(load_configuration(folder_values)).needs["qa_to_qa"]["test"] == (
        "test_me",
        "lost",
    )
    for file in (folder / "data" / "lost").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"lost") as caught:
        with_present_tasks(load_configuration(folder_values))
    assert "test_me" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[]", "holds no JSON object"),
        ("{", "cannot be read"),
        ('{"n_positions": "many"}', "n_positions: 'many' is no number of positions"),
        ('{"text_config": {"max_position_embeddings": 64}}', "the LLM has 64 positions"),
        ('{"max_seq_len": 64}', "the LLM has 64 positions"),
        (
            '{"model_type": "bert", "architectures": ["BertForMaskedLM"]}',
            "holds a bert, which reads in both directions",
        ),
        (
            '{"model_type": "bart", "is_encoder_decoder": true}',
            "holds a bart, and of encoder-decoder models only t5, mt5, umt5 are supported",
        ),
    ],
)
def test_a_models_own_configuration_is_read_before_any_job(values, config, words) -> None:
    Path(values["llms"]["pocket-gpt2"]["path"], "config.json").write_text(config)
    with pytest.raises(UserError, match=words):
        load_configuration(values)


@pytest.mark.parametrize(
    "config",
    [
        {"max_position_embeddings": 256, "sliding_window": 64},
        {"alibi": True, "max_position_embeddings": 64},
        {"relative_attention_num_buckets": 32},
    ],
)
def test_a_window_is_no_limit_and_neither_is_distance(values, config) -> None:
    Path(values["llms"]["pocket-gpt2"]["path"], "config.json").write_text(json.dumps(config))
    load_configuration(values)


def test_a_distillers_positions_count_where_the_llm_has_no_limit(values) -> None:
    config = json.dumps({"relative_attention_num_buckets": 32})
    Path(values["llms"]["pocket-gpt2"]["path"], "config.json").write_text(config)
    load_configuration(values)
    file = Path(values["llms"]["pocket-gpt2"]["distiller"]["path"], "config.json")
    file.write_text(json.dumps({"n_positions": 10}))
    with pytest.raises(UserError, match="methods.mend: length .* the distiller has 10 positions"):
        load_configuration(values)


def test_a_bos_that_a_tokenizer_has_not_is_told_before_any_job(values) -> None:
    values["llms"]["pocket-gpt2"]["prefix"] = "bos"
    tokenizer = Path(values["llms"]["pocket-gpt2"]["path"], "tokenizer_config.json")
    tokenizer.write_text('{"bos_token": "<s>"}')
    load_configuration(values)
    tokenizer.write_text('{"bos_token": null}')
    with pytest.raises(UserError, match=r"llms.pocket-gpt2.prefix: bos, but .* no bos_token"):
        load_configuration(values)


def test_missing_tasks_are_left_out_if_asked(folder_values, caplog) -> None:
    folder = Path(folder_values["benchmark"]["tasks"]["folder"])
    (folder / "data/lost/lost_16_13_dev.jsonl").unlink()
    folder_values["benchmark"]["missing_tasks"] = "skip"
    configuration = with_present_tasks(load_configuration(folder_values))
    assert configuration.needs["qa_to_qa"] == {"train": ("train_me",), "test": ("test_me",)}
    assert "lost" in caplog.text
    assert specification(configuration, "table2").skipped["qa_to_qa"] == ["lost"]


def test_a_partition_without_tasks_is_left_out_and_none_left_is_an_error(folder_values) -> None:
    folder = Path(folder_values["benchmark"]["tasks"]["folder"])
    (folder / "data/train_me/train_me_16384_100_train.jsonl").rename(folder / "rows.jsonl")
    folder_values["benchmark"]["missing_tasks"] = "skip"
    folder_values["benchmark"]["corpus"]["files"] = ["rows.jsonl"]
    with pytest.raises(UserError, match="no partition"):
        with_present_tasks(load_configuration(folder_values))


def test_a_bad_row_is_named_by_file_and_line(folder_values) -> None:
    folder = Path(folder_values["benchmark"]["tasks"]["folder"])
    path = folder / "data/test_me/test_me_16_13_test.jsonl"
    path.write_text(path.read_text().replace("\n", "\n{\n", 1))
    with pytest.raises(UserError, match=r"test_me_16_13_test\.jsonl, line 2"):
        with_present_tasks(load_configuration(folder_values))


def test_a_corpus_pattern_without_a_file_is_an_error(folder_values) -> None:
    folder_values["benchmark"]["corpus"]["files"] = ["nothing-*.jsonl"]
    with pytest.raises(UserError, match=r"benchmark\.corpus\.files"):
        with_present_tasks(load_configuration(folder_values))


def test_groups_whose_vectors_do_not_fit_are_told_before_any_job(values) -> None:
    values["benchmark"]["pool"] = 256
    study = {"title": "Groups", "llms": ["pocket-gpt2"], "partitions": ["class_to_class"]}
    study |= {"methods": ["mend"], "set": {"selection": "pool"}, "vary": {"shots": [16, 256]}}
    values["studies"]["groups"] = study
    study["set"]["group"] = 64
    load_configuration(values)
    study["set"]["group"] = 16
    with pytest.raises(UserError, match=r"llms.pocket-gpt2, methods.mend: group: 16 groups of 16"):
        load_configuration(values)
