"""Methods whose compressor is the LLM with LoRA, against plain passes of one row at a time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers.examples import examples
from helpers.models import (
    OBJECTIVE,
    TRAINING,
    VOCABULARY,
    build,
    random_llm,
    random_tokens,
    use_eager_attention,
)
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mend.configuration.specs.training import Losses
from mend.data.demonstrations import Demonstrations, pairs_of, segments
from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation.scoring import score_items
from mend.methods.built import BuiltMethod
from mend.models.frozen_llm import FrozenLLM, Rows
from mend.training.loop import train
from mend.training.losses import example_losses
from mend.training.operations import TrainingOperations

SHOWN = [
    Demonstrations([(random_tokens(4, n), random_tokens(1, 9 + n)) for n in range(count)])
    for count in (4, 1, 3)
]
LENGTH, SEGMENT = 3, 12
VECTORS = ("icae", "auto-compressor", "recurrent-memory")
KEY_VALUES = ("kv-compressor", "gist")
LOSSES = dict.fromkeys(("icae", *KEY_VALUES), "autoencoding")
LOSSES |= dict.fromkeys(("auto-compressor", "recurrent-memory"), "segments")


def compressing(llm: FrozenLLM, name: str, trained: bool = True) -> BuiltMethod:
    """Return a method; with adapters that do something, as after training."""
    torch.manual_seed(3)
    more = {"segment": SEGMENT, "segments": 2} if LOSSES[name] == "segments" else {}
    length = 2 * LENGTH if name == "auto-compressor" else LENGTH
    method = build(llm, name, length=length, lora_rank=2, **more).eval()
    for key, value in method.named_parameters():
        if trained and "lora_B" in key:
            torch.nn.init.normal_(value, std=0.5)
    return method


class ByHand:
    """PEFT's own model around a deep copy of the LLM, with the method's adapters."""

    def __init__(self, llm: FrozenLLM, method: BuiltMethod) -> None:
        body = copy.deepcopy(llm.model.encoder if llm.has_start_token else llm.body)
        settings = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear")
        self.model = get_peft_model(body, settings).eval()
        own = {k: v for k, v in method.compressor.body.named_parameters() if "lora_" in k}
        theirs = {k: v for k, v in self.model.named_parameters() if "lora_" in k}
        assert len(own) == len(theirs) > 0
        for key, value in own.items():
            theirs[f"base_model.model.{key}"].data.copy_(value.data)
        self.llm, self.placeholders = llm, method.compressor.placeholders.detach()

    def inputs(self, tokens: Sequence[int], before: Tensor | None = None) -> Tensor:
        words = self.llm.embedding(torch.tensor(list(tokens), dtype=torch.long))
        parts = [] if before is None else [before]
        return torch.cat([*parts, words, self.placeholders])[None]

    def vectors(self, tokens: Sequence[int], before: Tensor | None = None) -> Tensor:
        states = self.model(inputs_embeds=self.inputs(tokens, before)).last_hidden_state
        return states[0, -LENGTH:]

    def recurrent(self, tokens: Sequence[int], accumulates: bool) -> list[Tensor]:
        """Return what is read before each segment but the first, and at last the context."""
        found: list[Tensor] = []
        for part in segments(tokens, 2, SEGMENT):
            new = self.vectors(part, found[-1] if found else None)
            found.append(torch.cat([*found[-1:], new]) if accumulates else new)
        return found

    def layers(self, tokens: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        cache = self.model(inputs_embeds=self.inputs(tokens), use_cache=True).past_key_values
        return [(one.keys[0, :, -LENGTH:], one.values[0, :, -LENGTH:]) for one in cache.layers]


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama", "t5"])
@pytest.mark.parametrize("name", VECTORS)
@torch.no_grad()
def test_vectors_are_those_of_plain_passes(name: str, architecture: str) -> None:
    llm = random_llm(architecture)
    method = compressing(llm, name)
    plain, found = ByHand(llm, method), method.contexts(llm, SHOWN)
    for row, tokens in enumerate(SHOWN):
        if name == "icae":
            expected = plain.vectors(tokens)
        else:
            expected = plain.recurrent(tokens, name == "auto-compressor")[-1]
        got = found.vectors[row, : found.lengths[row]]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert max(found.lengths) <= method.context_length


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama"])
@pytest.mark.parametrize("name", KEY_VALUES)
@torch.no_grad()
def test_keys_and_values_are_those_of_plain_passes(name: str, architecture: str) -> None:
    llm = random_llm(architecture)
    method = compressing(llm, name)
    plain, found = ByHand(llm, method), method.contexts(llm, SHOWN)
    assert found.lengths == [LENGTH] * len(SHOWN)
    for row, tokens in enumerate(SHOWN):
        assert found.spans[row] == len(tokens) + LENGTH
        for number, (keys, values) in enumerate(plain.layers(tokens)):
            torch.testing.assert_close(found.keys[number][row], keys, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found.values[number][row], values, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_llms_prefix_stays_in_front_of_keys_and_values() -> None:
    llm = random_llm("llama")
    llm.prefix = [7]
    found = compressing(llm, "kv-compressor").contexts(llm, SHOWN)
    assert found.lengths == [1 + LENGTH] * len(SHOWN)
    assert found.spans == [len(tokens) + LENGTH for tokens in SHOWN]
    cache = llm.model(torch.tensor([[7]]), use_cache=True).past_key_values
    for number, layer in enumerate(cache.layers):
        for row in range(len(SHOWN)):
            torch.testing.assert_close(found.keys[number][row, :, :1], layer.keys[0])


@pytest.mark.parametrize("name", VECTORS + KEY_VALUES)
def test_the_frozen_llm_stays_as_it_is_and_lends_its_weights(name: str) -> None:
    llm = random_llm()
    before = {key: value.clone() for key, value in llm.model.state_dict().items()}
    names = [key for key, _ in llm.model.named_modules()]
    method = compressing(llm, name)
    assert [key for key, _ in llm.model.named_modules()] == names
    own = {id(one) for one in llm.model.parameters()}
    frozen = [one for one in method.parameters() if not one.requires_grad]
    assert frozen
    assert {id(one) for one in frozen} <= own
    example_loss = method.own_loss(LOSSES[name], method.contexts(llm, SHOWN), SHOWN).sum()
    example_loss.backward()
    assert all(one.grad is not None for one in method.parameters() if one.requires_grad)
    assert all(one.grad is None for one in llm.model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in llm.model.state_dict().items())
    # Saved and counted is what is trained alone.
    assert not {id(one) for one in method.state_dict(keep_vars=True).values()} & own


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_losses_of_segments_are_those_of_plain_passes(architecture: str) -> None:
    llm = random_llm(architecture)
    for name in ("auto-compressor", "recurrent-memory"):
        method = compressing(llm, name)
        plain, expected = ByHand(llm, method), []
        for tokens in SHOWN:
            parts = segments(tokens, 2, SEGMENT)
            if len(parts) < 2:
                expected.append(0.0)
                continue
            before = plain.recurrent(tokens, name == "auto-compressor")[0]
            words = llm.embedding(torch.tensor(parts[1]))
            logits = llm.model(inputs_embeds=torch.cat([before, words])[None]).logits[0]
            logs = logits[len(before) - 1 : -1].log_softmax(-1)
            expected.append(float(-logs.gather(1, torch.tensor(parts[1])[:, None]).mean()))
        found = method.own_loss("segments", method.contexts(llm, SHOWN), SHOWN)
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_losses_of_autoencoding_are_those_of_plain_passes() -> None:
    llm = random_llm()
    method = compressing(llm, "icae")
    plain, expected = ByHand(llm, method), []
    for tokens in SHOWN:
        words = llm.embedding(torch.tensor(tokens))
        inputs = torch.cat([plain.vectors(tokens), method.asking, words])[None]
        logs = llm.model(inputs_embeds=inputs).logits[0, LENGTH:-1].log_softmax(-1)
        expected.append(float(-logs.gather(1, torch.tensor(tokens)[:, None]).mean()))
    found = method.own_loss("autoencoding", method.contexts(llm, SHOWN), SHOWN)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", VECTORS + KEY_VALUES)
def test_a_training_lowers_their_losses_and_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    llm = random_llm()
    method = compressing(llm, name, trained=False)
    weights = Losses(**{LOSSES[name]: 1.0, "pred": 1.0})
    training = TRAINING.model_copy(update={"losses": weights, "steps": 30})
    result = train(llm, method, examples() * 99, training, OBJECTIVE)
    losses = [row["loss"] for row in result.metrics]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])
    assert result.flops > 0
    method.eval()
    method.save(tmp_path / "weights.safetensors", stage="finetune")
    again = compressing(llm, name, trained=False)
    again.load(tmp_path / "weights.safetensors", stage="finetune")
    items = [MultipleChoiceItem(0, SHOWN[0], [1, 2], [[3], [4, 5]])]
    assert score_items(llm, again, items) == score_items(llm, method, items)


@pytest.mark.parametrize("name", VECTORS + KEY_VALUES)
def test_operations_are_those_that_pytorch_counts(name: str) -> None:
    llm = random_llm("llama")
    use_eager_attention(llm.model)  # PyTorch counts no fused kernel of a processor
    method = compressing(llm, name)
    tokens = random_tokens(2 * SEGMENT, 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        method.contexts(llm, [tokens])
    found = method.making_operations(tokens)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.1)
    counts = TrainingOperations(llm, method, Losses(pred=1.0), "finetune", OBJECTIVE)
    assert counts.known
    more = Losses(pred=1.0, **{LOSSES[name]: 1.0})
    assert TrainingOperations(llm, method, more, "finetune", OBJECTIVE)(examples()) > counts(
        examples()
    )


@pytest.mark.parametrize("name", ["auto-compressor", "recurrent-memory"])
def test_demonstrations_beyond_the_window_are_read_in_segments(name: str) -> None:
    llm = random_llm()
    words = [number % VOCABULARY for number in range(2 * llm.positions)]
    shown = Demonstrations([(words[start : start + 9], [1]) for start in range(0, len(words), 9)])
    method = build(llm, name, length=30, lora_rank=2, segment=SEGMENT, segments=30)
    assert len(shown) > llm.positions
    assert method.longest_context() == 30 * SEGMENT >= len(shown)
    found = method.contexts(llm, [shown, shown[:5]])
    found.vectors.sum().backward()
    states = llm.states(found, Rows([0, 1], [[1], [2]], [[3], [4]]))
    assert states.isfinite().all()
    # What an earlier segment holds counts as well.
    other = Demonstrations([*pairs_of(shown)[:-2], ([5] * 9, [2]), pairs_of(shown)[-1]])
    assert not torch.allclose(method.contexts(llm, [other]).vectors, found.vectors[:1])


@pytest.mark.parametrize("name", VECTORS + KEY_VALUES)
def test_a_step_does_not_look_at_what_its_device_computes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device `meta` has shapes and no numbers: whatever needs some raises there."""
    # Old versions of transformers ask, and PyTorch does not answer for this device.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    with torch.device("meta"):
        llm = random_llm("llama")
        llm.refuses_vectors = llm.refuses_key_values = None
        method = compressing(llm, name)
    weights = Losses(**{LOSSES[name]: 1.0, "pred": 1.0, "distill": 1.0})
    losses = example_losses(llm, method, examples(), weights, "finetune", OBJECTIVE)
    sum(losses.values()).backward()
    assert {value.device.type for value in losses.values()} == {"meta"}
    assert all(one.grad is not None for one in method.compressor.parameters() if one.requires_grad)


def test_segments_that_do_not_fit_the_llm_are_refused() -> None:
    llm = random_llm()
    most = llm.positions - 2 * LENGTH
    for name, length in (("auto-compressor", 2 * LENGTH), ("recurrent-memory", LENGTH)):
        sizes = {"length": length, "lora_rank": 1, "segments": 2}
        build(llm, name, segment=most, **sizes)
        with pytest.raises(UserError, match=f"segment: {most + 1} tokens .*; at most {most} do"):
            build(llm, name, segment=most + 1, **sizes)


def test_segments_have_equal_shares_of_a_contexts_vectors() -> None:
    with pytest.raises(UserError, match="length 7 is not 2 segments' equal shares"):
        build(random_llm(), "auto-compressor", length=7, lora_rank=1, segment=4, segments=2)


def test_an_llm_without_keys_and_values_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="t5 cannot read keys and values"):
        build(random_llm("t5"), "kv-compressor", length=2, lora_rank=1)
