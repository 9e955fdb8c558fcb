"""The pocket T5 models: how they start, what they read in training, and what the kept ones do."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from helpers.models import use_eager_attention

from mend.models.frozen_llm import Rows
from mend.models.loading import frozen_llm
from mend.pocket import fitting, pretrain_t5
from mend.pocket.tokenizer import build_tokenizer
from mend.pocket.universe import TASKS
from mend.pocket.world import task_files

MODELS = Path(pretrain_t5.__file__).with_name("models")
TASK_NAMES = ("mood-names", "place-trees", "food-inference", "beast-pick")
TINY = pretrain_t5.Architecture(
    "tiny", layers=1, steps=0, seed=3, width=32, heads=4, head_width=8, feed_forward=32
)


@pytest.fixture(scope="module", params=["t5", "t5-small"])
def pocket_llm(request):
    from transformers import AutoTokenizer

    folder = MODELS / request.param
    return frozen_llm(pretrain_t5.load(folder), AutoTokenizer.from_pretrained(folder))


@pytest.fixture
def short_training(monkeypatch):
    """One phase of little batches of easy lists."""
    phase = fitting.Phase(1.0, 3, 24, (1,), fitting.EASY_KINDS)
    monkeypatch.setattr(pretrain_t5, "PHASES", (phase,))
    monkeypatch.setattr(fitting, "WARMUP_STEPS", 5)
    monkeypatch.setattr(fitting, "OTHER_LEARNING_RATE", 3e-2)


@torch.no_grad()
def accuracy(llm, name: str, shots: int) -> float:
    """Share of right options, demonstrations in the encoder and the query in the decoder."""
    identifiers = llm.tokenizer.get_vocab()
    files = task_files(next(task for task in TASKS if task.name == name))
    right = []
    for seed in (13, 21):
        demonstrations = files[f"{name}_16_{seed}_train"][:shots]
        context = [identifiers[w] for row in demonstrations for w in (*row.input, row.output)]
        rows = files[f"{name}_16_{seed}_dev"]
        queries = [[identifiers[word] for word in row.input] for row in rows]
        nothing = [[0]] * len(rows)
        states = llm.states(llm.token_context([context]), Rows([0] * len(rows), queries, nothing))
        logits = llm.logits(states[:, 0])
        for row, scores in zip(rows, logits, strict=True):
            options = [identifiers[option] for option in row.options]
            right.append(row.options[scores[options].argmax()] == row.output)
    return sum(right) / len(right)


def test_kept_models_are_as_their_readme_says(pocket_llm):
    model = pocket_llm.model
    assert model.dtype == torch.float32
    assert len(pocket_llm.tokenizer) == model.config.vocab_size
    assert not model.config.scale_decoder_outputs
    assert model.config.feed_forward_proj == "gated-gelu"
    folder = Path(model.config.name_or_path)
    readme = " ".join((folder / "README.md").read_text(encoding="utf-8").split())
    assert f"{model.num_parameters():,} parameters" in readme
    assert f"{model.config.num_layers} + {model.config.num_decoder_layers} blocks" in readme


def test_kept_models_learn_meta_test_tasks_from_demonstrations(pocket_llm):
    by_shots = {
        shots: sum(accuracy(pocket_llm, name, shots) for name in TASK_NAMES) / len(TASK_NAMES)
        for shots in (0, 1, 16)
    }
    assert by_shots[0] + 0.15 < by_shots[1] + 0.05 < by_shots[16]
    assert by_shots[16] > 0.8


def test_the_smaller_model_has_the_embeddings_of_the_larger():
    large, small = (pretrain_t5.load(MODELS / name) for name in ("t5", "t5-small"))
    assert torch.equal(large.shared.weight, small.shared.weight)
    assert small.config.num_layers < large.config.num_layers


def test_the_first_heads_of_every_block_look_back_at_first():
    model = pretrain_t5.build_model(pretrain_t5.LANGUAGE_MODEL).eval()
    pretrain_t5.initialise(model, seed=0)
    use_eager_attention(model)
    tokens = torch.randint(3, 190, (1, 40), generator=torch.Generator().manual_seed(0))
    read = model(
        input_ids=tokens, decoder_input_ids=tokens, output_attentions=True, use_cache=False
    )
    for attentions in (read.encoder_attentions, read.decoder_attentions):
        assert len(attentions) == 3
        for attention in attentions:
            for head, distance in enumerate((1, 2, 3)):
                assert attention[0, head].diagonal(-distance)[4:].mean() > 0.6


def test_training_cuts_documents_between_encoder_and_decoder():
    eos = build_tokenizer().eos_token_id
    empty, shares = 0, []
    for contexts, mask, tokens, answers in pretrain_t5.training_batches(30, Random(0)):
        assert contexts.shape == mask.shape
        assert len(tokens) == len(answers) == len(contexts) * pretrain_t5.SEQUENCES
        assert tokens.min() > eos  # words only
        assert contexts[mask.bool()].min() >= eos
        assert mask.any(1).all()
        shares.append(answers.float().mean().item())
        empty += (contexts[:, -1] == eos).sum().item()
    assert 0.12 < sum(shares) / len(shares) < 0.4
    assert 0 < empty < 100


def test_pretraining_is_repeatable(short_training):
    model, losses = pretrain_t5.pretrain(TINY, 4)
    again, same = pretrain_t5.pretrain(TINY, 4)
    assert same == losses
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not model.training


def test_pretraining_lowers_the_loss(short_training, monkeypatch):
    batch = next(pretrain_t5.training_batches(1, Random(0)))
    monkeypatch.setattr(pretrain_t5, "training_batches", lambda steps, rng: [batch] * steps)
    _, losses = pretrain_t5.pretrain(TINY, 30)
    assert losses[-1] < 0.9 * losses[0]


def test_a_smaller_model_starts_as_blocks_of_a_larger_one(short_training):
    large = replace(TINY, name="large", layers=3)
    small = replace(TINY, name="small", layers=2, blocks=(0, 2))
    parent = pretrain_t5.build_model(large)
    pretrain_t5.initialise(parent, seed=3)
    child, _ = pretrain_t5.pretrain(small, 2, parent)
    assert torch.equal(parent.shared.weight, child.shared.weight)
    for own, index in enumerate(small.blocks):
        before, after = parent.decoder.block[index], child.decoder.block[own]
        old, new = before.layer[1].EncDecAttention.k.weight, after.layer[1].EncDecAttention.k.weight
        assert not torch.equal(old, new)
        assert torch.nn.functional.cosine_similarity(old.flatten(), new.flatten(), dim=0) > 0.9


def test_saved_model_reads_back(tmp_path):
    model = pretrain_t5.build_model(TINY)
    text = pretrain_t5.readme(model, TINY, 2, 0.1, [5.0])
    fitting.save(model, tmp_path / "tiny", text)
    again = pretrain_t5.load(tmp_path / "tiny")
    old, new = model.state_dict(), again.state_dict()
    assert old.keys() == new.keys()
    for name in old:
        assert torch.allclose(old[name].float(), new[name], atol=1e-2, rtol=1e-3)
    assert "structured" in text
