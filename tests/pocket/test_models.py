"""The pocket language models: pretraining works, and the checked-in weights learn in context."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mend.models.frozen_llm import Rows
from mend.models.loading import frozen_llm
from mend.pocket import fitting, pretrain, pretrain_gpt2, pretrain_t5
from mend.pocket.tokenizer import build_tokenizer
from mend.pocket.universe import TASKS
from mend.pocket.world import task_files

FOLDER = Path(pretrain.__file__).with_name("models")
TASK_NAMES = ("mood-names", "animal-trees", "food-inference", "beast-pick")
LLMS = {"gpt2": pretrain_gpt2, "t5": pretrain_t5}
ARCHITECTURES = {architecture.name: architecture for _, architecture in pretrain.MODELS}


def load(name):
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if name.startswith("t5") else AutoModelForCausalLM
    return kind.from_pretrained(FOLDER / name).eval()


@torch.no_grad()
def accuracy(llm, name: str, shots: int) -> float:
    """Share of dev rows whose right option has the likeliest tokens, by the mean."""
    files = task_files(next(task for task in TASKS if task.name == name))
    right = []
    for seed in (13, 21):
        demonstrations = files[f"{name}_16_{seed}_train"][:shots]
        context = ids(llm, [w for row in demonstrations for w in (*row.input, row.output)])
        rows = files[f"{name}_16_{seed}_dev"]
        asked = [(row, option) for row in rows for option in row.options]
        read = Rows(
            [0] * len(asked),
            [ids(llm, row.input) for row, _ in asked],
            [ids(llm, [option]) for _, option in asked],
        )
        states = llm.states(llm.token_context([context]), read)
        scores = []
        for (_, option), of_row in zip(asked, llm.logits(states).log_softmax(-1), strict=True):
            tokens = ids(llm, [option])
            found = of_row[range(len(tokens)), tokens]
            scores.append(found.mean().item())
        for row in rows:
            of_row, scores = scores[: len(row.options)], scores[len(row.options) :]
            right.append(row.options[of_row.index(max(of_row))] == row.output)
    return sum(right) / len(right)


def ids(llm, words) -> list[int]:
    return llm.tokenizer(" ".join(words))["input_ids"] if words else []


@pytest.fixture(scope="module", params=LLMS)
def llm(request):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER / request.param)
    return frozen_llm(load(request.param), tokenizer)


def test_llms_learn_meta_test_tasks_from_demonstrations(llm):
    by_shots = {
        shots: sum(accuracy(llm, name, shots) for name in TASK_NAMES) / len(TASK_NAMES)
        for shots in (1, 4, 16)
    }
    assert by_shots[1] + 0.03 < by_shots[4] < by_shots[16] - 0.03


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_kept_models_are_as_their_readme_says(name):
    model, architecture = load(name), ARCHITECTURES[name]
    assert model.dtype == torch.float32
    readme = " ".join((FOLDER / name / "README.md").read_text(encoding="utf-8").split())
    assert f"{model.num_parameters():,} parameters" in readme
    assert f"{architecture.training.steps:,} steps" in readme
    assert model.config.hidden_size == architecture.width


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_kept_models_have_the_tokenizer_that_is_built(name):
    from transformers import AutoTokenizer

    kept, built = AutoTokenizer.from_pretrained(FOLDER / name), build_tokenizer()
    assert kept.get_vocab() == built.get_vocab()
    text = "the merry fox joyful given tearful"
    assert kept(text)["input_ids"] == built(text)["input_ids"]


@pytest.mark.parametrize("llm_name", LLMS)
def test_a_distiller_is_clearly_smaller_than_its_llm_and_of_another_width(llm_name):
    large, small = (load(name) for name in (llm_name, f"{llm_name}-small"))
    assert small.num_parameters() < large.num_parameters() / 3
    assert small.config.hidden_size < large.config.hidden_size


def test_kept_models_are_small():
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size < 8 * 10**6


@pytest.fixture(scope="module")
def text():
    return fitting.make_text(1000, torch.device("cpu"))


@pytest.mark.parametrize("family", LLMS.values(), ids=LLMS)
def test_pretraining_lowers_the_loss_and_is_repeatable(family, text, monkeypatch, tmp_path):
    monkeypatch.setattr(fitting, "WARMUP_STEPS", 5)
    tiny = replace(
        family.MODELS[0],
        name="tiny",
        layers=1,
        width=32,
        training=fitting.Training(steps=200, batch_size=4, learning_rate=1e-2),
    )
    models, losses = [], []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(family.build(tiny))
        losses.append(fitting.fit(models[-1], "tiny", text, family.loss, tiny.training))
    assert losses[0] == losses[1]
    assert losses[0][1] < 0.9 * losses[0][0]
    assert not models[0].training
    fitting.save(models[0], tmp_path / "tiny", "of the test")
    assert (tmp_path / "tiny/README.md").read_text(encoding="utf-8") == "of the test"
    again = type(models[0]).from_pretrained(tmp_path / "tiny")
    for old, new in zip(models[0].parameters(), again.parameters(), strict=True):
        assert torch.allclose(old, new, atol=1e-2, rtol=1e-3)


def test_a_few_steps_make_all_models(tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    tiny = [
        (family, replace(a, layers=1, width=8, training=replace(a.training, batch_size=2)))
        for family, a in pretrain.MODELS
    ]
    monkeypatch.setattr(pretrain, "MODELS", tiny)
    pretrain.pretrain_models(tmp_path, steps=1)
    assert {path.name for path in tmp_path.iterdir()} == set(ARCHITECTURES)
    readme = (tmp_path / "gpt2/README.md").read_text(encoding="utf-8")
    assert "ordinary initialisation" in readme
    assert len(AutoTokenizer.from_pretrained(tmp_path / "t5")) == len(build_tokenizer())


def test_the_t5_reads_what_is_before_a_cut_and_predicts_what_is_after(text):
    torch.manual_seed(0)
    tokens, starts = (part[:200] for part in text.mixed)
    contexts, mask, sequences = pretrain_t5.cut(tokens.long(), starts)
    assert contexts.shape == mask.shape == (200, pretrain_t5.LONGEST_CONTEXT)
    assert sequences.shape == (200, pretrain_t5.SEQUENCES, pretrain_t5.TOKENS)
    eos = build_tokenizer().eos_token_id
    row_begins = 0
    for i, row in enumerate(tokens.tolist()):
        context = contexts[i, : mask[i].sum()].tolist()
        assert context
        assert not contexts[i, len(context) :].any()
        cut = 0 if context == [eos] else len(context)
        assert cut == 0 or context == row[:cut]
        assert sequences[i, 0].tolist() == row[cut : cut + pretrain_t5.TOKENS]
        row_begins += starts[i, cut].item()
        windows = [row[at : at + pretrain_t5.TOKENS] for at in range(cut, len(row))]
        assert all(sequence in windows for sequence in sequences[i].tolist())
    assert 100 < row_begins < 200


def test_sequences_of_the_t5_do_not_see_each_other(text):
    torch.manual_seed(0)
    model = pretrain_t5.build(replace(pretrain_t5.MODELS[0], layers=2, width=16)).eval()
    contexts, mask, sequences = pretrain_t5.cut(
        *(part[:3] for part in (text.mixed[0].long(), text.mixed[1]))
    )
    together = pretrain_t5.sequence_logits(model, contexts, mask, sequences)
    for i in range(pretrain_t5.SEQUENCES):
        labels = sequences[:, i].contiguous()
        alone = model(input_ids=contexts, attention_mask=mask, labels=labels).logits
        assert torch.allclose(together[:, i], alone, atol=1e-5)
