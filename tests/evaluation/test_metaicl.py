"""The preset metaicl: every option's score is that of MetaICL's published code, cut or not."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from helpers.jobs import prediction
from transformers import GPT2Config, GPT2LMHeadModel

from mend.configuration.presets import fidelity
from mend.configuration.specs.evaluation_episodes import EvaluationEpisodesSpec
from mend.configuration.specs.reading import LongestContext, ReadingSettings
from mend.configuration.specs.run import LLMSource, MethodSource, RunSpec
from mend.configuration.specs.tasks import TasksSpec
from mend.data.evaluation_episodes import write_evaluation_episodes
from mend.data.tasks import import_tasks
from mend.evaluation.predict import run_prediction
from mend.models.local_models import train_tokenizer

POSITIONS, EXAMPLE, SHOTS, SEED = 64, 16, 8, 13
"""A sixteenth of MetaICL's 1,024 and 256, so that the rows below are cut as its rows are."""

WORDS = ["the", "a", "film", "was", "good", "bad", "fine", "one", "said", "plot", "of", "ending"]
TASKS = {
    "labels": ["positive", "negative", "neither good nor bad"],
    "choices": [],
}


def preset(key: str):
    return fidelity()[key]["metaicl"]


def write_rows(path: Path, task: str, rows: int, source: random.Random) -> None:
    """Rows of MetaICL's kinds: inputs short and long, labels, or other options in each row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for _ in range(rows):
        text = " ".join(source.choices(WORDS, k=source.choice([2, 5, 9, 30])))
        options = TASKS[task] or [
            " ".join(source.choices(WORDS, k=source.randint(1, 6))) for _ in range(4)
        ]
        row = {"task": task, "input": text, "output": source.choice(options), "options": options}
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tasks, and a GPT-2 of few positions with a byte-level BPE of its own."""
    root = tmp_path_factory.mktemp("metaicl")
    source = random.Random(0)
    for task in TASKS:
        for split, rows in (("train", SHOTS), ("dev", 2), ("test", 12)):
            write_rows(root / f"raw/data/{task}/{task}_16_{SEED}_{split}.jsonl", task, rows, source)
    spec = TasksSpec(train_tasks=[], test_tasks=list(TASKS), seeds=[SEED])
    import_tasks(spec, root / "raw", root / "tasks")
    tokenizer = train_tokenizer([" ".join(WORDS)] * 20, 300)
    torch.manual_seed(0)
    sizes = {"n_positions": POSITIONS, "n_embd": 32, "n_layer": 2, "n_head": 4}
    padded = len(tokenizer) + 5  # as many models have it: more rows than the tokenizer has tokens
    model = GPT2LMHeadModel(GPT2Config(vocab_size=padded, **sizes)).eval()
    for value in model.parameters():
        if value.dim() > 1:
            value.data *= 8  # so that scores differ
    model.save_pretrained(root / "llm")
    tokenizer.save_pretrained(root / "llm")
    return root


def metaicl_texts(
    tokenizer, shown: Sequence[dict], row: dict
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield what MetaICL's direct method reads before each option, and the option.

    Min et al., 2022 (metaicl/data.py): an input is cut so that it, its output and two more tokens
    are within an example's limit; all before an option is cut on the left.
    """

    def tokens(text: str) -> list[int]:
        return tokenizer(text)["input_ids"]

    together = min(EXAMPLE * len(shown), POSITIONS) if shown else EXAMPLE
    before: list[int] = []
    for number, one in enumerate(shown):
        x, y = tokens(" " * bool(number) + one["input"]), tokens(" " + one["output"])
        before += x[: EXAMPLE - 2 - len(y)] + y
    options = [tokens(" " + option) for option in row["options"]]
    query = tokens(" " * bool(shown) + row["input"])
    query = query[: EXAMPLE - 2 - max(map(len, options))]
    for option in options:
        text = before + query
        yield text[max(0, len(text) + len(option) - together) :], option


@torch.no_grad()
def metaicl_score(model: GPT2LMHeadModel, text: list[int], option: list[int]) -> float:
    """Return the mean log-probability of an option's tokens, from one pass (metaicl/model.py)."""
    logits = model(torch.tensor([[*text, *option]])).logits[0].log_softmax(-1)
    places = range(len(text) - 1, len(text) + len(option) - 1)
    found = [logits[place, token] for place, token in zip(places, option, strict=True)]
    return sum(found).item() / len(found)


@pytest.mark.parametrize("shots", [0, 1, 2, SHOTS])
def test_scores_are_those_of_metaicls_code(folder, tmp_path, shots) -> None:
    reading = {name: preset(name) for name in ReadingSettings.model_fields}
    limits = LongestContext(llm=POSITIONS, distiller=POSITIONS)
    reading |= {"longest_context": limits, "longest_example": EXAMPLE}
    assert fidelity()["longest_example"]["metaicl"] * 4 == preset("longest_context")["llm"]
    spec = RunSpec(
        llm=LLMSource(name="gpt2", path=str(folder / "llm"), prefix=preset("llms.*.prefix")),
        method=MethodSource(name="vanilla-icl" if shots else "zero-shot"),
        reading=ReadingSettings(**reading),
    )
    episodes = EvaluationEpisodesSpec(
        tasks=list(TASKS),
        shots=shots,
        seeds=[SEED],
        demonstrations_at_test=preset("demonstrations_at_test"),
        seed=0,
    )
    write_evaluation_episodes(episodes, folder / "tasks", "test", tmp_path / "test.parquet")
    job = prediction(spec, tasks=list(TASKS), condition=f"shots={shots}")
    assert job.scoring.option_score == preset("option_score")
    run_prediction(job, tmp_path / "test.parquet", folder / "tasks", tmp_path / "out.parquet", None)
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()

    from transformers import AutoTokenizer

    model = GPT2LMHeadModel.from_pretrained(folder / "llm")
    tokenizer = AutoTokenizer.from_pretrained(folder / "llm")
    cut = 0
    for task in TASKS:
        train, test = (
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            for path in (
                folder / f"raw/data/{task}/{task}_16_{SEED}_{split}.jsonl"
                for split in ("train", "test")
            )
        )
        ours = [record["scores"] for record in found if record["task"] == task]
        assert len(ours) == len(test)
        for row, scores in zip(test, ours, strict=True):
            texts = list(metaicl_texts(tokenizer, train[:shots], row))
            expected = [metaicl_score(model, text, option) for text, option in texts]
            assert scores == pytest.approx(expected, abs=1e-4)
            cut += len({len(text) + len(option) for text, option in texts}) == 1
    if shots > 1:
        assert cut > 5  # of many rows the oldest tokens fell off, more for longer options
