"""The pocket language models: pretraining works, and the checked-in weights learn in context."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

import mend.pocket.pretrain_gpt2 as pretraining
from mend.pocket import fitting
from mend.pocket.universe import TASKS
from mend.pocket.world import task_files

MODELS = Path(pretraining.__file__).with_name("models")
TASK_NAMES = ("mood-names", "place-trees", "food-inference", "beast-pick")


@pytest.fixture(scope="module", params=["gpt2", "gpt2-small"])
def pocket_model(request):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = MODELS / request.param
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def accuracy(model, tokenizer, name: str, shots: int) -> float:
    task = next(task for task in TASKS if task.name == name)
    files = task_files(task)
    right = []
    for seed in (13, 21):
        demonstrations = files[f"{name}_16_{seed}_train"][:shots]
        context = [word for row in demonstrations for word in (*row.input, row.output)]
        rows = files[f"{name}_16_{seed}_dev"]
        texts = [" ".join([*context, *row.input]) for row in rows]
        with torch.no_grad():
            logits = model(torch.tensor(tokenizer(texts)["input_ids"])).logits[:, -1]
        for row, scores in zip(rows, logits, strict=True):
            options = tokenizer.convert_tokens_to_ids(list(row.options))
            right.append(row.options[scores[options].argmax()] == row.output)
    return sum(right) / len(right)


def test_models_load_as_float32_with_their_tokenizer(pocket_model):
    model, tokenizer = pocket_model
    assert model.dtype == torch.float32
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.pad_token_id == 0
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer("the merry fox")["input_ids"] == tokenizer.convert_tokens_to_ids(
        ["the", "merry", "fox"]
    )


def test_models_learn_meta_test_tasks_from_demonstrations(pocket_model):
    by_shots = {
        shots: sum(accuracy(*pocket_model, name, shots) for name in TASK_NAMES) / len(TASK_NAMES)
        for shots in (0, 1, 16)
    }
    assert by_shots[0] + 0.15 < by_shots[1] + 0.05 < by_shots[16]
    assert by_shots[16] > 0.8


def test_stored_models_are_small():
    size = sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file())
    assert size < 8 * 10**6


def test_pretraining_lowers_the_loss_and_is_repeatable(monkeypatch):
    phase = fitting.Phase(1.0, 4, 48, (1,), fitting.EASY_KINDS)
    monkeypatch.setattr(pretraining, "PHASES", (phase,))
    monkeypatch.setattr(fitting, "WARMUP_STEPS", 5)
    tiny = pretraining.Architecture("tiny", layers=1, steps=0, seed=3, width=32, positions=64)
    _, losses = pretraining.pretrain(tiny, 120)
    assert sum(losses[-5:]) < 0.93 * sum(losses[:5])
    model, again = pretraining.pretrain(tiny, 120)
    assert again == losses
    assert not model.training


def test_saved_model_reads_back(tmp_path):
    from transformers import AutoModelForCausalLM

    tiny = pretraining.Architecture("tiny", layers=1, steps=0, seed=3, width=32, positions=64)
    model = pretraining.build_model(tiny)
    fitting.save(model, tmp_path / "tiny", pretraining.readme(model, tiny, 2, 0.1, [5.0]))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    for old, new in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.allclose(old, new, atol=1e-3)
    assert "structured" in (tmp_path / "tiny" / "README.md").read_text()


def test_a_smaller_model_starts_as_blocks_of_a_larger_one_and_keeps_its_embeddings(monkeypatch):
    phase = fitting.Phase(1.0, 2, 16, (1,), fitting.EASY_KINDS)
    monkeypatch.setattr(pretraining, "PHASES", (phase,))
    large = pretraining.Architecture("large", layers=3, steps=0, seed=3, width=32, positions=64)
    small = replace(large, name="small", layers=2, blocks=(0, 2))
    parent = pretraining.build_model(large)
    child, _ = pretraining.pretrain(small, 2, parent)
    before, after = parent.transformer, child.transformer
    assert torch.equal(before.wte.weight, after.wte.weight)
    assert torch.equal(before.wpe.weight, after.wpe.weight)
    for own, index in enumerate(small.blocks):
        old, new = before.h[index].attn.c_attn.weight, after.h[own].attn.c_attn.weight
        assert not torch.equal(old, new)
        assert torch.nn.functional.cosine_similarity(old.flatten(), new.flatten(), dim=0) > 0.9


def test_windows_start_with_a_document_and_mark_answers():
    for tokens, answers in pretraining.training_batches(4, Random(0)):
        assert tokens.shape == answers.shape
        assert tokens.min() >= 2
        assert 0.05 < answers.float().mean() < 0.5


def test_heads_of_the_first_block_look_back_at_first():
    architecture = pretraining.LANGUAGE_MODEL
    model = pretraining.build_model(architecture)
    pretraining.initialise(model, 0)
    model.config._attn_implementation = "eager"
    tokens = torch.randint(3, 190, (1, 40), generator=torch.Generator().manual_seed(0))
    attention = model(tokens, output_attentions=True).attentions[0][0]
    for head, distance in enumerate((1, 2, 3)):
        assert attention[head].diagonal(-distance)[8:].mean() > 0.6


def test_answers_weigh_more_in_the_loss():
    logits = torch.zeros(1, 3, 5)
    logits[0, 0, 1] = 5.0
    tokens = torch.tensor([[1, 2, 2]])
    easy = fitting.answer_weighted_loss(logits, tokens, torch.tensor([[1, 0, 0]]))
    hard = fitting.answer_weighted_loss(logits, tokens, torch.tensor([[0, 1, 0]]))
    plain = fitting.answer_weighted_loss(logits, tokens, torch.zeros(1, 3, dtype=torch.int64))
    assert easy < plain < hard
