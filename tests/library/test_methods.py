"""Methods as objects: the numbers of the workflow, whatever is loaded from wherever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from helpers.jobs import SEED, prediction
from helpers.trained import trained_run
from transformers import TextIteratorStreamer

import mend
from mend.configuration.specs.training import TrainingSpec
from mend.data.tasks import load_rows
from mend.evaluation.predict import run_prediction
from mend.models.distiller import DistillerModel

SHOWN = [("w1 w2", "w50"), ("w3 w4", "w51 w52"), ("w5 w6", "w50")]
QUERIES = ["w7 w8", "w9", "w7 w8"]
OPTIONS = ["w50", "w51 w52"]

KINDS = {
    "gpt2": ("gpt2", "mend", {}),
    "gpt2, a distiller of one block": ("gpt2", "mend", {"distiller": {"layers": [1]}}),
    "llama, a prefix": ("llama", "hypertuning", {"llm": {"prefix": "w3 w4"}}),
    "t5, an encoder": ("t5", "mend", {}),
    "t5, a decoder": ("t5", "mend", {"distiller": {"part": "decoder"}}),
    "t5, queries in its encoder": ("t5", "mend", {"llm": {"query_in": "encoder"}}),
    "a prompt": ("gpt2", "prompt-tuning", {}),
}


@pytest.fixture(scope="module", params=KINDS)
def run(request, data: Path, tmp_path_factory) -> tuple[Path, TrainingSpec]:
    """A trained run: its folder, with its models beside it, and what its job was told."""
    folder = tmp_path_factory.mktemp("run")
    architecture, method, parts = KINDS[request.param]
    return folder, trained_run(data, folder, architecture, method, **parts)


def rows_of(data: Path, folder: Path, spec: TrainingSpec) -> list[dict]:
    """Predict the test rows as a job does, each with the demonstrations it was given."""
    output = folder / "predictions.parquet"
    weights = folder / "run" if spec.method.name != "vanilla-icl" else None
    run_prediction(prediction(spec), data / "test.parquet", data / "tasks", output, weights)
    episodes = pyarrow.parquet.read_table(data / "test.parquet").to_pylist()
    shown = {(row["task"], row["row"]): row["demonstrations"] for row in episodes}
    found = pyarrow.parquet.read_table(output).to_pylist()
    return [row | {"shown": shown[row["task"], row["row"]]} for row in found]


def assert_as_predicted(method: mend.ContextMethod, rows: list[dict], data: Path) -> None:
    """Compare the options' scores of the workflow's rows with the library's."""
    tasks = load_rows(data / "tasks", "parity")
    train, test = (tasks.rows(split, SEED) for split in ("train", "test"))
    contexts = method.distill_many([[train[n][:2] for n in row["shown"]] for row in rows])
    scores = method.score(contexts, [test[row["row"]].input for row in rows], OPTIONS)
    assert [row["context_length"] for row in rows] == list(map(len, contexts))
    for found, row in zip(scores, rows, strict=True):
        assert found == pytest.approx(row["scores"], abs=1e-5)


def test_a_trained_run_scores_as_the_workflow_does(run, data: Path) -> None:
    folder, spec = run
    rows = rows_of(data, folder, spec)
    assert len({tuple(row["scores"]) for row in rows}) > 1
    assert_as_predicted(mend.ContextMethod.from_pretrained(folder / "run"), rows, data)


def test_methods_that_are_not_trained_score_as_the_workflow_does(data: Path, tmp_path) -> None:
    spec = trained_run(data, tmp_path)
    method = spec.method.model_copy(update={"name": "vanilla-icl", "settings": {}})
    rows = rows_of(data, tmp_path, spec.model_copy(update={"method": method}))
    distiller = mend.Distiller.from_pretrained(tmp_path / "run")
    assert_as_predicted(mend.VanillaICL(distiller.llm, like=distiller), rows, data)
    empty = mend.ZeroShot(distiller.llm).distill(SHOWN)
    assert len(empty) == 0
    first, *_ = mend.ZeroShot(distiller.llm).score(empty, ["w7"], ["w1", "w2"], option_score="sum")
    ids = torch.tensor([distiller.llm.tokenizer("w7")["input_ids"]])
    logits = distiller.llm.model(ids).logits[0, -1].log_softmax(-1)
    assert first == pytest.approx(logits[[1, 2]].tolist(), abs=1e-4)


def test_what_is_saved_needs_nothing_but_its_llm(run, tmp_path) -> None:
    folder, spec = run
    method = mend.ContextMethod.from_pretrained(folder / "run")
    context = method.distill(SHOWN)
    method.save_pretrained(tmp_path / "saved")
    elsewhere = shutil.copytree(folder / "llm", tmp_path / "elsewhere")
    kept = {path.suffix for path in (tmp_path / "saved").iterdir() if path.suffix}
    assert kept == {".json", ".safetensors", ".md"}
    hidden = folder / "distiller"
    hidden.rename(folder / "hidden")
    try:
        again = mend.ContextMethod.from_pretrained(tmp_path / "saved", llm=elsewhere)
    finally:
        (folder / "hidden").rename(hidden)
    assert torch.equal(again.distill(SHOWN).content.vectors, context.content.vectors)
    assert again.score(context, QUERIES, OPTIONS) == method.score(context, QUERIES, OPTIONS)
    # What was loaded is saved as it was.
    again.save_pretrained(tmp_path / "again")
    first, second = (
        json.loads((tmp_path / name / "mend.json").read_text()) for name in ("saved", "again")
    )
    assert second["llm"].pop("path") == str(elsewhere)
    first["llm"].pop("path")

    assert first == second


@pytest.fixture(scope="module")
def distiller(data: Path, tmp_path_factory) -> mend.Distiller:
    """A trained distiller of a tiny GPT-2."""
    folder = tmp_path_factory.mktemp("distiller")
    trained_run(data, folder)
    return mend.Distiller.from_pretrained(folder / "run")


def test_many_sets_are_those_of_each_alone(distiller: mend.Distiller) -> None:
    sets = [SHOWN[:1], SHOWN, "w1 w2 w3", ["w5", ("w6", "w7")], SHOWN[1:]]
    together = distiller.distill_many(sets, batch_size=2)
    alone = [distiller.distill(one) for one in sets]
    assert [context.shots for context in together] == [1, 3, 1, 2, 2]
    for one, other in zip(together, alone, strict=True):
        assert one.demonstrations == other.demonstrations
        torch.testing.assert_close(one.content.vectors, other.content.vectors, atol=1e-5, rtol=0)
    assert len({context.demonstrations for context in together}) == len(sets)


def test_nothing_is_distilled_or_read_again_for_more_queries(
    distiller: mend.Distiller, monkeypatch
) -> None:
    context = distiller.distill(SHOWN)
    read: list[int] = []
    prefill = distiller.llm.prefill

    def counted(contexts):
        read.append(len(contexts.lengths))
        return prefill(contexts)

    def never(*_):
        raise AssertionError("distilled again")

    monkeypatch.setattr(distiller.llm, "prefill", counted)
    monkeypatch.setattr(DistillerModel, "forward", never)
    scores = distiller.score(context, QUERIES, OPTIONS)
    assert scores[0] == scores[2] != scores[1]
    assert read == [1]


def test_each_query_may_have_its_own_context_and_options(distiller: mend.Distiller) -> None:
    contexts = distiller.distill_many([SHOWN[:1], SHOWN[1:], SHOWN])
    options = [["w1", "w2"], ["w3", "w4 w5", "w6"], ["w50", "w51 w52"]]
    found = distiller.score(contexts, QUERIES, options, option_score="sum")
    for context, query, chosen, scores in zip(contexts, QUERIES, options, found, strict=True):
        alone = distiller.score(context, [query], chosen, option_score="sum")
        assert scores == pytest.approx(alone[0], abs=1e-5)


def test_groups_are_distilled_apart_and_joined(distiller: mend.Distiller) -> None:
    joined = distiller.distill(SHOWN, group=2)
    parts = distiller.distill_many([SHOWN[:2], SHOWN[2:]])
    expected = torch.cat([part.content.vectors for part in parts], dim=1)
    torch.testing.assert_close(joined.content.vectors, expected, atol=1e-5, rtol=0)
    assert joined.shots == 3


def test_text_is_generated_and_streamed(distiller: mend.Distiller) -> None:
    context = distiller.distill(SHOWN)
    options = {"max_new_tokens": 5, "do_sample": False}
    texts = distiller.generate(context, QUERIES, **options)
    streamer = TextIteratorStreamer(distiller.llm.tokenizer)
    assert distiller.generate(context, QUERIES[:1], streamer=streamer, **options) == texts[:1]
    assert "".join(streamer).split() == texts[0].split()
    likeliest = distiller.score(context, QUERIES[:1], [f"w{n}" for n in range(60)])[0]
    assert texts[0].split()[0] == f"w{likeliest.index(max(likeliest))}"


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("bfloat16", 0.1), ("float32", 0)], ids=["bfloat16", "float32"]
)
def test_another_precision_of_the_llm_is_the_same_llm(
    distiller: mend.Distiller, dtype: str, tolerance: float
) -> None:
    folder = distiller._folder
    other = mend.Distiller.from_pretrained(folder, dtype=dtype, device_map="cpu")
    assert str(other.llm.dtype) == f"torch.{dtype}"
    scores = [one.score(one.distill(SHOWN), QUERIES, OPTIONS) for one in (distiller, other)]
    assert torch.tensor(scores[1]).sub(torch.tensor(scores[0])).abs().max() <= tolerance


LONG = [(f"w{n} w{n + 1} w{n + 2}", "w50") for n in range(20)]


def test_what_does_not_fit_is_left_out_if_asked(distiller: mend.Distiller) -> None:
    some = distiller.distill(LONG, truncate=True)
    # READING: 40 tokens, of 4 a demonstration.
    expected = distiller.distill(LONG[:10])
    torch.testing.assert_close(some.content.vectors, expected.content.vectors, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("demonstrations", "told"),
    [
        ([], "no demonstrations were given; for none at all there is mend.ZeroShot"),
        ("", "demonstration 1 is empty"),
        ([("w1", "w2"), (" ", "")], "demonstration 2 is empty"),
        ([("w1", 3)], "demonstration 1: .* is neither a text nor a pair of texts"),
        ([("w1", "w2", "w3")], "demonstration 1: .* is neither"),
        ({"w1": "w2"}, "demonstrations are a dict"),
        (["w1", "w2 \ud800"], "demonstration 2 holds half of a surrogate pair"),
        (LONG, "demonstrations 1 to 20: 10 of 20 do not fit the 40 tokens .* truncate=True"),
        ([(" ".join(["w1"] * 30), "w2")], "1 are longer than the 20 tokens"),
    ],
)
def test_demonstrations_that_cannot_be_distilled_are_told(
    distiller: mend.Distiller, demonstrations, told: str
) -> None:
    with pytest.raises(mend.UserError, match=told):
        distiller.distill(demonstrations)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"queries": []}, "queries: give a list of texts"),
        ({"queries": "w1"}, "queries: give a list of texts"),
        ({"queries": [3]}, "a query is a int"),
        ({"queries": [" ".join(["w1"] * 95)]}, "an item of .* is longer than the 96"),
        ({"queries": ["\udc00"]}, "a query holds half of a surrogate"),
        ({"options": ["w1", 2]}, "query 1 has no list of options|options of 2"),
        ({"options": "w1"}, "options: give a list of texts"),
        ({"options": []}, "options: give a list of texts"),
        ({"options": ["w1", ""]}, "has no tokens"),
        ({"options": [["w1"], ["w2"]]}, "3 queries, and options of 2"),
        ({"options": [["w1"], ["w2"], []]}, "query 3 has no list of options"),
        ({"option_score": "median"}, "option_score is 'median'"),
        ({"context": None}, "a context is a NoneType"),
        ({"context": "some text"}, "a context is a str"),
    ],
)
def test_what_cannot_be_scored_is_told(distiller: mend.Distiller, asked: dict, told: str) -> None:
    given = {"context": distiller.distill(SHOWN), "queries": QUERIES, "options": OPTIONS}
    with pytest.raises(mend.UserError, match=told):
        distiller.score(**given | asked)


def test_contexts_of_tokens_and_vectors_are_not_mixed(distiller: mend.Distiller) -> None:
    contexts = [distiller.distill(SHOWN), mend.VanillaICL(distiller.llm).distill(SHOWN)]
    with pytest.raises(mend.UserError, match="tokens and of vectors are mixed"):
        distiller.score(contexts, QUERIES[:2], OPTIONS)


def test_a_method_of_another_kind_is_told(data: Path, tmp_path) -> None:
    trained_run(data, tmp_path, method="prompt-tuning")
    with pytest.raises(mend.UserError, match="prompt-tuning, which does not distil"):
        mend.Distiller.from_pretrained(tmp_path / "run")
    prompt = mend.PromptTuning.from_pretrained(tmp_path / "run")
    context = prompt.distill(SHOWN)
    assert context.shots is None
    assert torch.equal(context.content.vectors, prompt.distill(SHOWN[:1]).content.vectors)
    with pytest.raises(mend.UserError, match="group: prompt-tuning does not distil"):
        prompt.distill(SHOWN, group=2)


def test_what_trains_nothing_cannot_be_saved(distiller: mend.Distiller, tmp_path) -> None:
    with pytest.raises(mend.UserError, match="vanilla-icl trains nothing"):
        mend.VanillaICL(distiller.llm).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_answers_are_written_after_the_separator_before_outputs(data: Path, tmp_path) -> None:
    separators = {"input_output": " w40 ", "demonstrations": " w41 "}
    trained_run(data, tmp_path, reading={"separators": separators})
    distiller = mend.Distiller.from_pretrained(tmp_path / "run")
    for method in (distiller, mend.VanillaICL(distiller.llm, like=distiller)):
        context = method.distill(SHOWN)
        assert context.prompt("w7 w8") == [41, 7, 8, 40]
        options = [f"w{n}" for n in range(60)]
        scores = method.score(context, ["w7 w8"], options)[0]
        # An option's first token is the separator, which is as likely before each.
        text = method.generate(context, ["w7 w8"], max_new_tokens=1, do_sample=False)[0]
        assert text == options[scores.index(max(scores))]
        assert len(context.prompt_embeds("w7 w8")) == len(context) + 4


def test_by_default_what_is_left_out_leaves_room_for_a_query(distiller: mend.Distiller) -> None:
    icl = mend.VanillaICL(distiller.llm)
    context = icl.distill(LONG * 3, truncate=True)
    assert len(context) <= 72
    assert icl.score(context, ["w7 w8"], OPTIONS)
