"""The model class of lm-evaluation-harness on tasks of pocket words, beside the harness's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.saved import POCKET, saved_distiller

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")

import lm_eval
import torch
from lm_eval.tasks import TaskManager
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import mend
from mend.errors import UserError
from mend.harness.__main__ import main
from mend.harness.model import ContextLM
from mend.library.methods import default_reading

LLM = str(POCKET / "gpt2")
ANIMALS = {
    "beast": ["deer", "bear", "wolf"],
    "bird": ["owl", "crow", "swan"],
    "fish": ["carp", "trout", "tuna"],
}
COLOURS = ["navy", "olive", "ruby", "lime", "mint", "cobalt"]
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "the {{animal}}",
    "doc_to_choice": "{{kinds}}",
    "doc_to_target": "{{kinds.index(kind)}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    "num_fewshot": 4,
}
WORDS = {"target_delimiter": " match ", "fewshot_delimiter": " pair "}
TASKS = {
    "choice": CHOICE,
    # Words as delimiters, so that a wrong one is not overlooked.
    "delimiters": CHOICE | WORDS | {"description": "find some animal "},
    "begun": CHOICE | WORDS | {"gen_prefix": "this"},
    "begun_with_a_space": CHOICE | WORDS | {"gen_prefix": "this "},
    "first": CHOICE | {"fewshot_config": {"sampler": "first_n"}},
    "unprompted": CHOICE | {"num_fewshot": 0},
    "information": CHOICE | WORDS | {"metric_list": [{"metric": "acc_mutual_info"}]},
    "apart": CHOICE | {"doc_to_text": " the {{animal}}"},
    "spaces": CHOICE | {"doc_to_text": "the {{animal}} ", "target_delimiter": ""},
    "last_word": CHOICE
    | {
        "output_type": "loglikelihood",
        "doc_to_target": " {{kind}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "two_contexts": CHOICE
    | {
        "doc_to_text": "{{kinds.index(kind)}}",
        "doc_to_choice": "{{animals}}",
        "doc_to_target": "{{kind}}",
        "metric_list": [{"metric": "acc"}],
    },
    "writing": {
        "output_type": "generate_until",
        "doc_to_text": "the {{animal}}",
        "doc_to_target": "{{kind}}",
        "generation_kwargs": {"until": ["the", "\n"], "max_gen_toks": 6},
        "metric_list": [{"metric": "exact_match"}],
        "num_fewshot": 4,
    },
    "text": CHOICE
    | {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{animal}}",
        "metric_list": [{"metric": "word_perplexity"}],
        "num_fewshot": 0,
    },
}


def rows(colours: list[str]) -> list[dict[str, Any]]:
    return [
        {"animal": f"{colour} {animal}", "kind": kind, "kinds": list(ANIMALS), "animals": animals}
        for colour in colours
        for kind, animals in ANIMALS.items()
        for animal in animals
    ]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A folder with tasks of the harness, and their rows."""
    folder = tmp_path_factory.mktemp("tasks")
    for split, colours in {"train": COLOURS, "test": ["azure"]}.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows(colours))
        (folder / f"{split}.jsonl").write_text(lines)
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    for name, settings in TASKS.items():
        task = {
            "task": f"toy_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
            "training_split": "train",
            "fewshot_split": "train",
            "test_split": "test",
            "metadata": {"version": 1},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | settings))
    return folder


@pytest.fixture(scope="module")
def manager(tasks: Path) -> TaskManager:
    return TaskManager(include_path=str(tasks), include_defaults=False)


@pytest.fixture(scope="module")
def distiller(tmp_path_factory) -> Path:
    return saved_distiller(tmp_path_factory.mktemp("saved") / "mend")


def run(manager: TaskManager, model: Any, name: str, **options: Any) -> dict[str, Any]:
    """Run a task: with turns where the model is ours, and as text where it is the harness's own."""
    if isinstance(model, dict):
        options |= {"model_args": model, "batch_size": 4, "device": "cpu"}
        model = "hf"
    else:
        options |= {"apply_chat_template": True, "fewshot_as_multiturn": True}
    found = lm_eval.simple_evaluate(
        model=model, tasks=[f"toy_{name}"], task_manager=manager, bootstrap_iters=0, **options
    )
    assert found is not None
    return found


def answers(found: dict[str, Any], name: str) -> list[list[Any]]:
    """Return what the model said to each request, documents in their order."""
    samples = sorted(found["samples"][f"toy_{name}"], key=lambda sample: sample["doc_id"])
    return [[response[0] for response in sample["resps"]] for sample in samples]


def assert_same(found: dict[str, Any], expected: dict[str, Any], name: str) -> None:
    for mine, other in zip(answers(found, name), answers(expected, name), strict=True):
        for one, another in zip(mine, other, strict=True):
            if isinstance(one, str):
                assert one == another
                continue
            assert one[0] == pytest.approx(another[0], abs=1e-4)
            assert one[1] == another[1]
    numbers = [
        {key: value for key, value in results["results"][f"toy_{name}"].items() if "," in key}
        for results in (found, expected)
    ]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-4)
    assert numbers[0]


@pytest.mark.parametrize("name", sorted(TASKS.keys() - {"text"}))
def test_vanilla_icl_gives_the_numbers_of_a_stock_run(manager, name) -> None:
    found = run(manager, ContextLM(LLM, method="vanilla-icl"), name)
    assert_same(found, run(manager, {"pretrained": LLM}, name), name)


@pytest.fixture(scope="module")
def beginning(tmp_path_factory) -> str:
    """The pocket GPT-2 with a tokenizer that begins every text with a token of its own."""
    folder = tmp_path_factory.mktemp("beginning") / "gpt2"
    shutil.copytree(LLM, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    processor = tokenizer["post_processor"]
    processor["single"].insert(0, {"SpecialToken": {"id": "<eos>", "type_id": 0}})
    processor["special_tokens"] = {"<eos>": {"id": "<eos>", "ids": [2], "tokens": ["<eos>"]}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<eos>"}))
    return str(folder)


@pytest.mark.parametrize("name", ["delimiters", "information", "writing"])
def test_a_token_that_begins_texts_is_read_as_in_a_stock_run(manager, beginning, name) -> None:
    model = ContextLM(beginning, method="vanilla-icl")
    assert model.reader.llm.prefix == [2]
    found = run(manager, model, name)
    assert_same(found, run(manager, {"pretrained": beginning}, name), name)
    assert answers(found, name) != answers(run(manager, {"pretrained": LLM}, name), name)


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> str:
    """A random GPT-2 whose tokens have their spaces and line breaks in them."""
    tokenizer = ByteLevelBPETokenizer()
    text = "the navy deer match beast\n\nthat azure owl this bird"
    tokenizer.train_from_iterator([text] * 9, vocab_size=300, special_tokens=["<end>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, eos_token="<end>")
    torch.manual_seed(0)
    settings = GPT2Config(vocab_size=len(fast), n_positions=256, n_embd=16, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    folder = tmp_path_factory.mktemp("letters") / "gpt2"
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["choice", "delimiters", "begun", "spaces", "writing"])
def test_spaces_are_in_the_tokens_of_a_stock_run(manager, letters, name) -> None:
    found = run(manager, ContextLM(letters, method="vanilla-icl"), name)
    assert_same(found, run(manager, {"pretrained": letters}, name), name)


def test_after_a_saved_context_a_stock_run_lacks_the_separator(manager, letters, tmp_path) -> None:
    llm = mend.load_llm(letters)
    content = llm.vector_context(torch.randn(1, 3, llm.width))
    mend.Context(llm, content, default_reading(llm), "mend").save_pretrained(tmp_path / "saved")
    model = ContextLM(letters, context=str(tmp_path / "saved"))
    stock = {"pretrained": letters, "peft": str(tmp_path / "saved")}
    found = answers(run(manager, model, "choice", num_fewshot=0), "choice")
    same = answers(run(manager, stock, "apart", num_fewshot=0), "apart")
    other = answers(run(manager, stock, "choice", num_fewshot=0), "choice")
    for mine, theirs, without in zip(found, same, other, strict=True):
        assert [one[0] for one in mine] == pytest.approx([one[0] for one in theirs], abs=1e-4)
        assert [one[0] for one in mine] != pytest.approx([one[0] for one in without], abs=1e-2)


def test_the_example_s_task_gives_the_numbers_of_a_stock_run(monkeypatch, tmp_path) -> None:
    root = POCKET.parents[2]
    monkeypatch.chdir(root)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    manager = TaskManager(include_path=str(root / "examples/harness"), include_defaults=False)
    options = {"tasks": ["place_trees"], "task_manager": manager, "limit": 20, "bootstrap_iters": 0}
    found = lm_eval.simple_evaluate(
        ContextLM(LLM, method="vanilla-icl"), apply_chat_template=True, **options
    )
    stock = lm_eval.simple_evaluate("hf", model_args={"pretrained": LLM}, device="cpu", **options)
    assert found["results"]["place_trees"]["acc,none"] > 0
    assert (
        found["results"]["place_trees"]["acc,none"] == stock["results"]["place_trees"]["acc,none"]
    )


def test_what_does_not_fit_the_llm_is_cut_as_in_a_stock_run(manager, caplog) -> None:
    shots = {"num_fewshot": 45}
    with caplog.at_level("WARNING", logger="mend"):
        found = run(manager, ContextLM(LLM, method="vanilla-icl"), "choice", **shots)
    assert "27 of 27 prompts are cut in front to fit the LLM" in caplog.text
    assert_same(found, run(manager, {"pretrained": LLM}, "choice", **shots), "choice")


def test_fewer_shots_are_the_first_ones(manager) -> None:
    found = run(manager, ContextLM(LLM, method="vanilla-icl", shots=2), "first")
    assert_same(found, run(manager, {"pretrained": LLM}, "first", num_fewshot=2), "first")


def test_zero_shot_reads_no_demonstration(manager) -> None:
    found = run(manager, ContextLM(LLM, method="zero-shot"), "delimiters")
    stock = run(manager, {"pretrained": LLM}, "delimiters", num_fewshot=0)
    assert_same(found, stock, "delimiters")


def test_each_set_is_distilled_once_and_scored_as_the_library_scores_it(
    manager, distiller, monkeypatch
) -> None:
    sets = []
    distill_many = mend.ContextMethod.distill_many

    def counted(self, given, **options):
        sets.extend(given)
        return distill_many(self, given, **options)

    monkeypatch.setattr(mend.ContextMethod, "distill_many", counted)
    model = ContextLM(str(distiller), method="mend")
    found = run(manager, model, "choice")
    prompts = {
        prompt for sample in found["samples"]["toy_choice"] for prompt, _ in sample["arguments"]
    }
    assert len(prompts) == 9  # of documents, each with demonstrations of its own
    assert len(sets) == len({tuple(one) for one in sets}) == 9
    assert found["config"]["mend_sets_distilled"] == 9
    run(manager, model, "first")
    assert len(sets) == 10  # all documents have the same

    method = mend.Distiller.from_pretrained(distiller)
    shown = [(f"the navy {animal}", "beast") for animal in ANIMALS["beast"]]
    context = method.distill([*shown, ("the navy owl", "bird")])
    queries = [f"the azure {animal}" for group in ANIMALS.values() for animal in group]
    scores = method.score(context, queries, list(ANIMALS), option_score="sum")
    for mine, expected in zip(answers(run(manager, model, "first"), "first"), scores, strict=True):
        assert [value for value, _ in mine] == pytest.approx(expected, abs=1e-4)


def test_text_is_written_after_vectors_as_the_library_writes_it(manager, distiller) -> None:
    found = run(manager, ContextLM(str(distiller), shots=1), "writing")
    method = mend.Distiller.from_pretrained(distiller)
    for sample in found["samples"]["toy_writing"]:
        prompt = json.loads(sample["arguments"][0][0].partition(": ")[2])
        context = method.distill([(prompt[1][0][0], prompt[1][0][2])])
        [text] = method.generate(context, [prompt[2]], max_new_tokens=6)
        assert sample["resps"][0][0] == text.partition("the")[0]


def test_a_saved_context_gives_the_numbers_of_a_stock_run_with_its_folder(
    manager, distiller, tmp_path
) -> None:
    method = mend.Distiller.from_pretrained(distiller)
    method.distill([("the navy deer", "beast"), ("the lime owl", "bird")]).save_pretrained(
        tmp_path / "context"
    )
    model = ContextLM(LLM, context=str(tmp_path / "context"))
    found = run(manager, model, "choice", num_fewshot=0)
    stock = {"pretrained": LLM, "peft": str(tmp_path / "context")}
    assert_same(found, run(manager, stock, "choice", num_fewshot=0), "choice")
    with pytest.raises(UserError, match="--num_fewshot 0"):
        run(manager, model, "choice")


def test_what_cannot_be_asked_is_refused(manager, distiller) -> None:
    model = ContextLM(LLM, method="vanilla-icl")
    with pytest.raises(UserError, match="loglikelihood_rolling .* run its tasks with --model hf"):
        run(manager, model, "text")
    options = {"model": model, "tasks": ["toy_choice"], "task_manager": manager}
    with pytest.raises(UserError, match="one turn, .* --fewshot_as_multiturn true"):
        lm_eval.simple_evaluate(**options, apply_chat_template=True, fewshot_as_multiturn=False)
    with pytest.raises(UserError, match="--apply_chat_template"):
        lm_eval.simple_evaluate(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pretrained": LLM}, "is no trained method; for an LLM choose method=vanilla-icl or"),
        ({"pretrained": "SAVED", "method": "hypertuning"}, "holds mend, not hypertuning"),
        ({"pretrained": LLM, "method": "zero-shot", "llm": LLM}, "name the LLM as pretrained"),
        ({"pretrained": LLM, "method": "vanilla-icl", "shots": -1}, "shots=-1 is no number"),
        ({"pretrained": LLM, "context": "x", "shots": 1}, "leave method and shots out"),
        ({"pretrained": LLM, "peft": "x"}, "peft is not known; there are pretrained, method"),
        ({"pretrained": "nowhere/at-all", "method": "vanilla-icl"}, "nowhere/at-all"),
        ({"pretrained": "/no/such/folder", "method": "vanilla-icl"}, "/no/such/folder"),
    ],
)
def test_model_arguments_that_cannot_work_are_refused(distiller, arguments, message) -> None:
    if arguments["pretrained"] == "SAVED":
        arguments = arguments | {"pretrained": str(distiller)}
    with pytest.raises(UserError, match=message):
        ContextLM(**arguments)


def arguments(tasks: Path, *others: str) -> list[str]:
    named = ["--model", "mend", "--tasks", "toy_first", "--include_path", str(tasks)]
    return ["run", *named, *others]


def test_the_harness_command_line_knows_the_model(tasks, distiller, tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mend.harness"]
        + arguments(tasks, "--model_args", f"pretrained={distiller}", "--apply_chat_template")
        + ["--output_path", str(tmp_path / "out")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    [file] = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(file.read_text())
    assert results["config"]["mend_method"] == "mend"
    assert results["config"]["mend_sets_distilled"] == 1
    assert "acc,none" in results["results"]["toy_first"]


def test_the_command_line_tells_what_is_wrong_in_one_line(tasks, monkeypatch, capsys) -> None:
    chosen = arguments(tasks, "--model_args", f"pretrained={LLM}", "--apply_chat_template")
    monkeypatch.setattr(sys, "argv", ["mend.harness", *chosen])
    assert main() == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: --model_args: {LLM} is no")
