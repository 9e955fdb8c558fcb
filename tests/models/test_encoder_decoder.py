"""Encoder-decoder LLMs: the context in the encoder, query and answer in the decoder."""

from __future__ import annotations

import pytest
import torch
from helpers.examples import examples, items, mend_method
from helpers.models import (
    ENCODER_DECODERS,
    OBJECTIVE,
    build,
    random_distiller,
    random_llm,
    random_tokens,
    t5_configuration,
)
from transformers import AutoConfig, AutoModelForSeq2SeqLM, BartConfig

from mend.configuration import choices
from mend.configuration.specs.training import Losses
from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation.scoring import score_items
from mend.models.distiller import distilling_part
from mend.models.frozen_llm import FrozenLLM, Rows
from mend.models.loading import frozen_llm
from mend.training.losses import example_losses

START = 0


@pytest.fixture(params=ENCODER_DECODERS)
def llm(request) -> FrozenLLM:
    return random_llm(request.param)


def plain_logits(llm: FrozenLLM, context: list[int], text: list[int]) -> torch.Tensor:
    """Logits that predict each token of `text`, from one whole forward pass."""
    decoder = torch.tensor([[START, *text[:-1]]])
    return llm.model(input_ids=torch.tensor([context]), decoder_input_ids=decoder).logits[0]


def plain_score(llm: FrozenLLM, context: list[int], query: list[int], option: list[int]) -> float:
    logits = plain_logits(llm, context, [*query, *option]).log_softmax(-1)[len(query) :]
    return logits.gather(1, torch.tensor(option)[:, None]).mean().item()


def test_predicting_states_equal_one_plain_forward_pass(llm: FrozenLLM) -> None:
    contexts = [random_tokens(length, seed=length) for length in (5, 12, 1)]
    texts = [random_tokens(length, seed=50 + length) for length in (7, 3, 6)]
    states = llm.states(llm.token_context(contexts), Rows([0, 1, 2], [[]] * 3, texts))
    for row, (context, text) in enumerate(zip(contexts, texts, strict=True)):
        found = llm.logits(states[row, : len(text)])
        torch.testing.assert_close(found, plain_logits(llm, context, text), atol=1e-4, rtol=1e-4)


def test_cached_scoring_equals_plain_forward_passes(llm: FrozenLLM) -> None:
    found = score_items(
        llm, build(llm, "vanilla-icl"), items(), context_batch_size=2, item_batch_size=2
    )
    for item, scores in zip(items(), found, strict=True):
        expected = [
            plain_score(llm, list(item.demonstrations), list(item.query), list(option))
            for option in item.options
        ]
        assert scores == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", choices.ENCODER_DECODERS)
def test_queries_that_share_a_context_equal_plain_forward_passes(kind: str) -> None:
    config = {**t5_configuration(16).to_dict(), "model_type": kind}
    del config["scale_decoder_outputs"]  # each kind has its own rule
    torch.manual_seed(0)
    llm = frozen_llm(AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(**config)), None)
    texts = [random_tokens(4, seed) for seed in range(3)]
    context = random_tokens(9, seed=9)
    prefilled = llm.prefill(llm.token_context([context]))
    states = llm.states_after(prefilled, Rows([0, 0, 0], [[]] * 3, texts))
    for found, text in zip(llm.logits(states), texts, strict=True):
        torch.testing.assert_close(found, plain_logits(llm, context, text), atol=1e-5, rtol=1e-4)


def test_an_empty_context_is_one_end_of_text(llm: FrozenLLM) -> None:
    item = items()[4]
    alone = MultipleChoiceItem(0, [], item.query, item.options)
    [found] = score_items(llm, build(llm, "zero-shot"), [alone])
    end = [llm.model.config.eos_token_id]
    expected = [plain_score(llm, end, list(item.query), list(o)) for o in item.options]
    assert found == pytest.approx(expected, abs=1e-4)


def test_an_empty_context_beside_others_is_scored_as_alone(llm: FrozenLLM) -> None:
    first, second = items()[4], items()[0]
    empty = MultipleChoiceItem(0, [], first.query, first.options)
    full = MultipleChoiceItem(1, second.demonstrations, second.query, second.options)
    method = build(llm, "vanilla-icl")
    together = score_items(llm, method, [empty, full])
    assert together[0] == pytest.approx(score_items(llm, method, [empty])[0], abs=1e-4)
    assert together[1] == pytest.approx(score_items(llm, method, [full])[0], abs=1e-4)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("architecture", ENCODER_DECODERS)
def test_a_t5_distiller_does_not_depend_on_padding(
    llm: FrozenLLM, architecture: str, part: str
) -> None:
    distiller = random_distiller(llm, architecture=architecture, part=part)
    demonstrations = [random_tokens(length, seed=length) for length in (4, 17, 9)]
    together = distiller(demonstrations)
    for row, one in enumerate(demonstrations):
        torch.testing.assert_close(together[row], distiller([one])[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_the_student_that_reads_the_demonstrations_has_nothing_to_learn(llm: FrozenLLM) -> None:
    method = build(llm, "vanilla-icl")
    losses = example_losses(llm, method, examples(), Losses(distill=1.0), "finetune", OBJECTIVE)
    assert losses["distill"].item() == pytest.approx(0.0, abs=1e-5)


@pytest.fixture(params=ENCODER_DECODERS)
def query_in_encoder(request) -> FrozenLLM:
    llm = random_llm(request.param)
    return frozen_llm(llm.model, llm.tokenizer, query_in="encoder")


def test_queries_in_the_encoder_are_scored_as_by_plain_passes(query_in_encoder) -> None:
    llm = query_in_encoder
    method = build(llm, "vanilla-icl")
    found = score_items(llm, method, items(), context_batch_size=2, item_batch_size=2)
    for item, scores in zip(items(), found, strict=True):
        read = [*item.demonstrations, *item.query]
        expected = [plain_score(llm, read, [], list(option)) for option in item.options]
        assert scores == pytest.approx(expected, abs=1e-4)


def test_without_a_query_the_decoder_has_the_text(query_in_encoder) -> None:
    llm = query_in_encoder
    method = build(llm, "vanilla-icl")
    decoder_query = frozen_llm(llm.model, llm.tokenizer)
    clm = Losses(clm=1.0)
    losses = [
        example_losses(face, method, examples(), clm, "pretrain", OBJECTIVE)["clm"].item()
        for face in (llm, decoder_query)
    ]
    assert losses[0] == losses[1] > 0


def test_where_the_query_goes_is_no_question_for_a_decoder() -> None:
    llm = random_llm("gpt2")
    with pytest.raises(UserError, match="query_in: encoder is for encoder-decoder"):
        frozen_llm(llm.model, llm.tokenizer, query_in="encoder")


def test_a_decoder_distils_what_its_encoder_read(llm: FrozenLLM) -> None:
    distiller = random_distiller(llm, architecture="t5", part="decoder")
    shown = random_tokens(7, 1)
    plain = distiller.backbone(
        input_ids=torch.tensor([shown]), decoder_inputs_embeds=distiller.placeholders[None]
    ).last_hidden_state
    torch.testing.assert_close(distiller([shown]), plain, atol=1e-5, rtol=1e-4)
    end = [distiller.backbone.config.eos_token_id]
    torch.testing.assert_close(distiller([shown, []])[1], distiller([end])[0], atol=1e-5, rtol=1e-4)


def test_weights_of_a_decoding_distiller_are_saved_whole(llm: FrozenLLM, tmp_path) -> None:
    methods = [mend_method(llm), mend_method(llm)]
    for method, length in zip(methods, (3, 3), strict=True):
        method.distiller = random_distiller(llm, length=length, architecture="t5", part="decoder")
    with torch.no_grad():
        for parameter in methods[0].parameters():
            parameter.add_(1)
    methods[0].save(tmp_path / "weights.safetensors")
    methods[1].load(tmp_path / "weights.safetensors")
    first, second = (method.distiller([[1, 2, 3]]) for method in methods)
    assert torch.equal(first, second)


def test_a_part_of_a_decoder_only_distiller_is_refused() -> None:
    backbone = random_llm("gpt2").model.base_model
    with pytest.raises(UserError, match="part: decoder is for encoder-decoder"):
        distilling_part(backbone, "decoder")


def test_other_encoder_decoders_are_refused_with_the_reason() -> None:
    model = AutoModelForSeq2SeqLM.from_config(
        BartConfig(
            vocab_size=60,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
        )
    )
    with pytest.raises(UserError, match="bart.*relative positions"):
        frozen_llm(model, None)
