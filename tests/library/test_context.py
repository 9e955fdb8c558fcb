"""A saved context: PEFT's format, the same numbers by every way to read it, and no other LLM."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from helpers.damage import flip_data
from helpers.trained import trained_run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mend
from mend.models.changes import linear_modules
from mend.models.frozen_llm import Rows
from mend.models.tensor_files import save_tensors

SHOWN = [("w1 w2", "w50"), ("w3 w4", "w51 w52")]
QUERIES = ["w7 w8", "w9"]
OPTIONS = ["w50", "w51 w52"]
GREEDY = {"max_new_tokens": 5, "do_sample": False}


@pytest.fixture(scope="module", params=["none", "w3 w4"])
def distiller(request, data: Path, tmp_path_factory) -> mend.Distiller:
    """A trained distiller of a tiny GPT-2, without a prefix and with one."""
    folder = tmp_path_factory.mktemp("distiller")
    trained_run(data, folder, llm={"prefix": request.param})
    return mend.Distiller.from_pretrained(folder / "run")


@pytest.fixture
def saved(distiller: mend.Distiller, tmp_path) -> Path:
    """The folder of a context of vectors."""
    distiller.distill(SHOWN).save_pretrained(tmp_path / "context")
    return tmp_path / "context"


@pytest.mark.parametrize("kind", ["vectors", "tokens", "nothing", "keys and values"])
def test_what_was_saved_scores_as_before(distiller: mend.Distiller, kind: str, tmp_path) -> None:
    llm = distiller.llm
    makers = {
        "tokens": mend.VanillaICL(llm, like=distiller),
        "nothing": mend.ZeroShot(llm),
        "keys and values": mend.ContextMethod.untrained("key-norm", llm, distiller, keep=4),
    }
    context = makers.get(kind, distiller).distill(SHOWN)
    context.save_pretrained(tmp_path / "context")
    again = mend.Context.from_pretrained(tmp_path / "context", llm=llm)
    assert distiller.score(again, QUERIES, OPTIONS) == distiller.score(context, QUERIES, OPTIONS)
    kept = ("method", "shots", "demonstrations", "reading")
    assert [getattr(again, name) for name in kept] == [getattr(context, name) for name in kept]
    # Its LLM comes along by itself.
    alone = mend.Context.from_pretrained(tmp_path / "context")
    texts = [
        mend.ZeroShot(one.llm).generate(one, QUERIES, **GREEDY) for one in (alone, again, context)
    ]
    assert texts[0] == texts[1] == texts[2]


def test_peft_and_input_vectors_read_the_same(distiller: mend.Distiller, saved: Path) -> None:
    context = mend.Context.from_pretrained(saved, llm=distiller.llm)
    ours = distiller.generate(context, QUERIES[:1], **GREEDY)
    llm = mend.load_llm(distiller.llm.source.path)
    prompt = context.prompt_embeds(QUERIES[0])
    ids = torch.tensor([context.after(QUERIES[0])])
    assert len(prompt) == len(distiller.llm.prefix) + len(context) + ids.shape[1]
    with torch.no_grad():
        plain = llm.model(inputs_embeds=prompt[None]).logits
        written = llm.model.generate(inputs_embeds=prompt[None], **GREEDY)
        adapted = peft.PeftModel.from_pretrained(llm.model, saved)
        by_peft = adapted(input_ids=ids).logits
        by_peft_written = adapted.generate(input_ids=ids, **GREEDY)[:, ids.shape[1] :]
    assert torch.equal(by_peft, plain)
    texts = [
        llm.tokenizer.decode(row[0], skip_special_tokens=True) for row in (written, by_peft_written)
    ]
    assert texts == ours * 2


def test_nothing_in_a_folder_is_pickled(saved: Path) -> None:
    kinds = {path.name: path.suffix for path in saved.iterdir() if not path.name.startswith(".")}
    assert set(kinds.values()) == {".json", ".safetensors", ".md"}
    assert load_file(saved / "adapter_model.safetensors").keys() == {"prompt_embeddings"}


def test_a_t5_of_peft_reads_the_same(data: Path, tmp_path) -> None:
    trained_run(data, tmp_path, "t5", llm={"query_in": "encoder"})
    distiller = mend.Distiller.from_pretrained(tmp_path / "run")
    context = distiller.distill(SHOWN)
    context.save_pretrained(tmp_path / "context")
    model = mend.load_llm(tmp_path / "llm").model
    ids = torch.tensor([context.after(QUERIES[0])])
    start = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        prompt = context.prompt_embeds(QUERIES[0])[None]
        plain = model(inputs_embeds=prompt, decoder_input_ids=start).logits
        adapted = peft.PeftModel.from_pretrained(model, tmp_path / "context")
        by_peft = adapted(input_ids=ids, decoder_input_ids=start).logits
    torch.testing.assert_close(by_peft, plain, atol=1e-5, rtol=0)


def test_a_t5_that_reads_queries_in_its_decoder_has_prompts_without_them(data, tmp_path) -> None:
    trained_run(data, tmp_path, "t5")
    context = mend.Distiller.from_pretrained(tmp_path / "run").distill(SHOWN)
    assert len(context.prompt_embeds()) == len(context)
    with pytest.raises(mend.UserError, match="reads queries in its decoder"):
        context.prompt_embeds("w1")


def other_weights(folder: Path) -> None:
    """Change one number of a weight."""
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if tensors[name].dim() > 1)
    tensors[name][0, 0] += 0.5
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def other_tokenizer(folder: Path) -> None:
    """Swap two words."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    words = content["model"]["vocab"]
    words["w1"], words["w2"] = words["w2"], words["w1"]
    file.write_text(json.dumps(content), encoding="utf-8")


def other_setting(folder: Path) -> None:
    """Change what the configuration says of the model."""
    file = folder / "config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["layer_norm_epsilon"] = 0.01
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other_weights, "its weights are others: another revision, or trained further"),
        (other_tokenizer, "its tokenizer is another"),
        (other_setting, "its layer_norm_epsilon is 0.01, not"),
    ],
)
@pytest.mark.parametrize("what", ["context", "distiller"])
def test_another_llm_is_refused_with_the_reason(
    distiller: mend.Distiller, saved: Path, what: str, change: Callable, told: str, tmp_path
) -> None:
    distiller.save_pretrained(tmp_path / "distiller")
    distiller.llm.model.save_pretrained(tmp_path / "other")
    distiller.llm.tokenizer.save_pretrained(tmp_path / "other")
    load = {"context": mend.Context, "distiller": mend.Distiller}[what].from_pretrained
    load(tmp_path / what, llm=tmp_path / "other")
    change(tmp_path / "other")
    with pytest.raises(mend.UserError, match=told) as raised:
        load(tmp_path / what, llm=tmp_path / "other")
    assert str(tmp_path / what) in str(raised.value)
    # Of another precision rounding hides a small change, and nothing else.
    if change is not other_weights:
        with pytest.raises(mend.UserError, match=told):
            load(tmp_path / what, llm=tmp_path / "other", dtype="bfloat16")


def test_another_architecture_is_refused(saved: Path, data: Path, tmp_path) -> None:
    trained_run(data, tmp_path / "llama", "llama")
    with pytest.raises(mend.UserError, match="it is a llama, not a gpt2"):
        mend.Context.from_pretrained(saved, llm=tmp_path / "llama/llm")


def test_another_prefix_is_refused(distiller: mend.Distiller, saved: Path) -> None:
    with pytest.raises(mend.UserError, match="its prefix is 'w9'"):
        mend.Context.from_pretrained(saved, llm=distiller.llm.source.path, prefix="w9")


def test_a_context_of_another_llm_is_not_scored(distiller, data: Path, tmp_path) -> None:
    trained_run(data, tmp_path, "llama")
    other = mend.Distiller.from_pretrained(tmp_path / "run")
    with pytest.raises(mend.UserError, match="made for another LLM"):
        distiller.score(other.distill(SHOWN), QUERIES, OPTIONS)


def in_json(**changes: object) -> Callable[[Path], None]:
    """Return what changes keys of mend.json."""

    def change(folder: Path) -> None:
        file = folder / "mend.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes), encoding="utf-8")

    return change


def flipped(folder: Path) -> None:
    """Flip a bit of the vectors."""
    import random

    flip_data(folder / "adapter_model.safetensors", random.Random(0))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (in_json(format=2, made_with="mend 9.1"), "written by mend 9.1, .* install a newer"),
        (in_json(format="new"), "mend.json: format"),
        (in_json(kind="method"), "the folder holds a method, not a context"),
        (in_json(positions=1), "not a context: its positions is 2"),
        (in_json(nonsense=1), "mend.json: nonsense"),
        (in_json(method="other"), "its method is"),
        (lambda folder: (folder / "mend.json").write_text("[1]"), "no JSON object"),
        (lambda folder: (folder / "mend.json").write_text("{"), "mend.json"),
        (lambda folder: (folder / "mend.json").unlink(), "no context: it has no mend.json"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "there is no such file"),
        (flipped, "is not what was written|is not finite"),
    ],
)
def test_a_damaged_folder_is_told(distiller, saved: Path, damage: Callable, told: str) -> None:
    damage(saved)
    with pytest.raises(mend.UserError, match=told) as raised:
        mend.Context.from_pretrained(saved, llm=distiller.llm)
    assert "\n" not in str(raised.value)


def test_what_is_no_folder_is_told(distiller: mend.Distiller, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "file").write_text("text")
    wrong = {
        str(tmp_path / "file"): "a file, not a folder",
        str(tmp_path / "absent"): "there is no such folder",
        "nobody/has-this": "there is no such folder, and the hub gave nothing",
        str(tmp_path): "it has no mend.json",
    }
    for path, told in wrong.items():
        for load in (mend.Context.from_pretrained, mend.Distiller.from_pretrained):
            with pytest.raises(mend.UserError, match=told):
                load(path, llm=distiller.llm)


def test_an_llm_that_is_nowhere_is_told(distiller: mend.Distiller, saved: Path) -> None:
    content = json.loads((saved / "mend.json").read_text())
    content["llm"]["path"] = "no/llm"
    in_json(llm=content["llm"])(saved)
    with pytest.raises(mend.UserError, match=r"made for the LLM 'no/llm'.*name it with llm="):
        mend.Context.from_pretrained(saved)


@pytest.mark.parametrize(
    ("loading", "told"),
    [
        ({"dtype": "float8"}, "dtype: input should be"),
        ({"device": "tpu"}, "device: 'tpu'"),
        ({"device": "cuda"}, "device: 'cuda'"),
        ({"query_in": "encoder"}, "for encoder-decoder LLMs"),
        ({"prefix": "bos"}, "no such token"),
        ({"path": "no/llm"}, "cannot load the LLM 'no/llm'"),
    ],
)
def test_an_llm_that_cannot_be_loaded_is_told(loading: dict, told: str, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(mend.UserError, match=told):
        mend.load_llm(**{"path": "mend/pocket/models/gpt2", **loading})


def test_the_packages_own_models_are_found_anywhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert mend.load_llm("mend/pocket/models/gpt2").width == 128


def test_a_folder_of_something_else_is_not_replaced(distiller: mend.Distiller, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(mend.UserError, match="mine.txt is in it"):
        distiller.distill(SHOWN).save_pretrained(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_prompt_that_has_no_room_is_told(distiller: mend.Distiller) -> None:
    with pytest.raises(mend.UserError, match="do not fit the"):
        distiller.distill(SHOWN).prompt_embeds(" ".join(["w1"] * 96))


def changing(distiller: mend.Distiller, kind: str) -> mend.Context:
    """Return a context that changes the LLM much: modules of two ranks, or two blocks."""
    llm = distiller.llm
    torch.manual_seed(5)
    if kind == "additions":
        vectors = {block: torch.randn(1, 16) for block in (1, 0)}
        content = llm.addition_context(vectors)
    else:
        sizes = linear_modules(llm.model, ["c_attn", "c_fc"])
        ranks = {name: 2 + number % 2 for number, name in enumerate(sizes)}
        content = llm.low_rank_context(
            {name: torch.randn(1, ranks[name], size[0]) for name, size in sizes.items()},
            {name: torch.randn(1, size[1], ranks[name]) for name, size in sizes.items()},
        )
    return mend.Context(llm, content, distiller.reading, "of-a-test", 2)


@pytest.mark.parametrize("kind", ["low-rank", "additions"])
def test_what_changes_the_llm_scores_as_before(distiller, kind: str, tmp_path) -> None:
    context = changing(distiller, kind)
    context.save_pretrained(tmp_path / "context")
    again = mend.Context.from_pretrained(tmp_path / "context", llm=distiller.llm)
    scores = distiller.score(context, QUERIES, OPTIONS)
    assert distiller.score(again, QUERIES, OPTIONS) == scores
    zero_shot = mend.ZeroShot(distiller.llm, like=distiller)
    assert scores != zero_shot.score(zero_shot.distill(SHOWN), QUERIES, OPTIONS)
    written = [distiller.generate(one, QUERIES, **GREEDY) for one in (context, again)]
    assert written[0] == written[1]
    of = {"low-rank": "low-rank weights of 4 modules", "additions": "additions after block 1, 0"}
    assert repr(context) == f"Context(of-a-test: {of[kind]} for 2 demonstrations)"
    assert len(again) == 0
    # A query has the separator before it that a context has after it.
    assert again.after("w1") == distiller.distill(SHOWN).after("w1")
    with pytest.raises(mend.UserError, match="has no embeddings"):
        again.prompt_embeds("w1")
    both = distiller.score([context, again], QUERIES, OPTIONS)
    assert both[0] == pytest.approx(scores[0], abs=1e-5)
    assert both[1] == pytest.approx(scores[1], abs=1e-5)
    with pytest.raises(mend.UserError, match=f"contexts of {kind} and of vectors are mixed"):
        distiller.score([context, distiller.distill(SHOWN)], QUERIES, OPTIONS)


def test_peft_adds_the_same_low_rank_weights(distiller: mend.Distiller, tmp_path) -> None:
    context = changing(distiller, "low-rank")
    context.save_pretrained(tmp_path / "context")
    llm = mend.load_llm(distiller.llm.source.path)
    ids = [*distiller.llm.prefix, *context.after(QUERIES[0])]
    with torch.no_grad():
        rows = Rows([0], [context.after(QUERIES[0])], [[1]])
        ours = distiller.llm.logits(distiller.llm.states(context.content, rows))[0, 0]
        adapted = peft.PeftModel.from_pretrained(llm.model, tmp_path / "context")
        by_peft = adapted(input_ids=torch.tensor([ids])).logits[0, -1]
        with adapted.disable_adapter():
            plain = adapted(input_ids=torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(by_peft, ours, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain, ours, atol=1e-2)


def rewritten(change: Callable[[dict], None], file: str) -> Callable[[Path], None]:
    """Return what changes a file's tensors, and the checksums with them."""

    def damage(folder: Path) -> None:
        with safe_open(folder / file, "pt") as opened:
            identity = json.loads(opened.metadata()["mend"])["identity"]
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        change(tensors)
        save_tensors(tensors, folder / file, identity)

    return damage


FIRST = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("low-rank", lambda one: one.pop(FIRST), "not an A and a B of each module"),
        ("low-rank", lambda one: one.clear(), "not an A and a B of each module"),
        ("low-rank", lambda one: one.update({FIRST: one[FIRST][:1]}), "that do not fit"),
        ("low-rank", lambda one: one.update({FIRST: one[FIRST][:, :5]}), "no linear module trans"),
        ("additions", lambda one: one.update({"block.7": one["block.1"] + 1}), "no block 7"),
        ("additions", lambda one: one.update({"block.1": one["block.1"][:5]}), "of width 5"),
        ("additions", lambda one: one.update({"block.x": one["block.1"] + 1}), "a vector for each"),
        ("additions", lambda one: one.clear(), "a vector for each"),
    ],
)
def test_what_changes_another_llm_is_told(distiller, kind, change, told, tmp_path) -> None:
    changing(distiller, kind).save_pretrained(tmp_path / "context")
    file = "adapter_model.safetensors" if kind == "low-rank" else "additions.safetensors"
    rewritten(change, file)(tmp_path / "context")
    with pytest.raises(mend.UserError, match=told) as raised:
        mend.Context.from_pretrained(tmp_path / "context", llm=distiller.llm)
    assert file in str(raised.value)


@pytest.fixture
def of_keys(distiller: mend.Distiller, tmp_path) -> Path:
    """The folder of a context of keys and values."""
    method = mend.ContextMethod.untrained("key-norm", distiller.llm, keep=4)
    method.distill(SHOWN).save_pretrained(tmp_path / "context")
    return tmp_path / "context"


def without_a_layer(folder: Path) -> None:
    """Leave the keys of a layer out, and say nothing of it."""
    file = folder / "key_values.safetensors"
    with safe_open(file, "pt") as opened:
        content = json.loads(opened.metadata()["mend"])
        names = [name for name in opened.keys() if name != "keys.1"]  # noqa: SIM118
        tensors = {name: opened.get_tensor(name) for name in names}
    content["checksums"].pop("keys.1")
    save_file(tensors, file, {"mend": json.dumps(content)})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (without_a_layer, "not the keys and values of each of the LLM's layers"),
        (in_json(positions=3), "its positions is [46], and here it is 3"),
        (in_json(content="vectors"), "adapter_model.safetensors: .* no such file"),
    ],
)
def test_damaged_keys_and_values_are_told(distiller, of_keys, damage, told: str) -> None:
    damage(of_keys)
    with pytest.raises(mend.UserError, match=told):
        mend.Context.from_pretrained(of_keys, llm=distiller.llm)


def test_keys_and_values_have_no_embeddings(distiller: mend.Distiller, of_keys: Path) -> None:
    context = mend.Context.from_pretrained(of_keys, llm=distiller.llm)
    kept = 4 + len(distiller.llm.prefix)
    assert f"{kept} keys and values" in repr(context)
    with pytest.raises(mend.UserError, match="has no embeddings"):
        context.prompt_embeds("w1")


def test_an_llm_that_reads_no_keys_and_values_is_told(data: Path, tmp_path) -> None:
    trained_run(data, tmp_path, "t5")
    llm = mend.load_llm(tmp_path / "llm")
    method = mend.ContextMethod.untrained("key-norm", llm, keep=4)
    with pytest.raises(mend.UserError, match="t5 cannot read keys and values.*its encoder reads"):
        method.distill(SHOWN)


def test_a_trained_method_is_not_untrained(distiller: mend.Distiller) -> None:
    with pytest.raises(mend.UserError, match="mend is trained; load it with from_pretrained"):
        mend.ContextMethod.untrained("mend", distiller.llm, length=3)
    with pytest.raises(mend.UserError, match="methods.key-norm.keep"):
        mend.ContextMethod.untrained("key-norm", distiller.llm)
