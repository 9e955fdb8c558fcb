"""Tiny random models of every architecture, and how far our path is from their own plain passes.

`PYTHONPATH=.:tests python -m helpers.architectures [NAME ...]` prints the table.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig

from helpers.models import build, built, use_eager_attention
from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation.scoring import score_items
from mend.methods.base import Method
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import frozen_llm

VOCABULARY = 61

#: Shorter than most rows, longer than some: what a window does shows.
WINDOW = 16


@dataclass(frozen=True)
class Architecture:
    """A tiny model.

    configuration: the class of its configuration, by name, and its arguments.
    required: right, or else it may be refused, by name.
    vectors: reads vectors; else they are refused, by name.
    grow: what weights are multiplied with after initialisation, so that positions, scales and
        caps make a difference.
    """

    configuration: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    required: bool = True
    vectors: bool = True
    grow: float = 6

    @property
    def exists(self) -> bool:
        """Whether the installed transformers has it, as it is here."""
        try:
            self.configured()
        except (AttributeError, ValueError, StrictDataclassError):
            return False
        return True

    def configured(self) -> PretrainedConfig:
        """Return its configuration."""
        return getattr(transformers, self.configuration)(**self.arguments)

    @property
    def looks_ahead(self) -> bool:
        """Whether what predicts a token sees it, in the installed transformers (some UMT5 do)."""
        plain = Plain(tiny(self))
        texts = ([7, 8, 9, 10], [7, 8, 11, 12])
        one, other = (plain.log_probabilities(words(5, 1), text)[1] for text in texts)
        return not torch.allclose(one, other, atol=1e-3)

    @property
    def widens_masks(self) -> bool:
        """Whether its encoder takes no mask as attention adds it (UMT5 in old transformers)."""
        if self.configuration != "UMT5Config":
            return False
        return not hasattr(transformers.models.umt5.modeling_umt5, "create_bidirectional_mask")

    @property
    def may_be_refused(self) -> bool:
        """Whether a job may refuse it: if it is not required, or broken in some versions."""
        return not self.required or self.looks_ahead or self.widens_masks

    @property
    def model_type(self) -> str:
        """What transformers calls it."""
        return getattr(transformers, self.configuration).model_type


_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    **_SPECIAL,
}


def _sizes(*without: str, **more: Any) -> dict[str, Any]:
    return {key: value for key, value in _SIZES.items() if key not in without} | more


_GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW}
_WINDOWED = {"layer_types": ["sliding_attention", "full_attention"]}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "original_max_position_embeddings": 24,
    "partial_rotary_factor": 1.0,
}
_DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
_DELTA_NET = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
    "mamba_expand": 2,
}
_EXPERTS = {"num_local_experts": 3, "num_experts_per_tok": 2}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
_BERT = {**_sizes("num_key_value_heads")}


ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": Architecture(
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4},
    ),
    "openai-gpt": Architecture(
        "OpenAIGPTConfig",
        {"vocab_size": VOCABULARY, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4},
    ),
    "ctrl": Architecture(
        "CTRLConfig",
        {
            "vocab_size": VOCABULARY,
            "n_positions": 128,
            "n_embd": 32,
            "dff": 48,
            "n_layer": 2,
            "n_head": 4,
        },
    ),
    "gpt-neo": Architecture(
        "GPTNeoConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": WINDOW,
            "max_position_embeddings": 128,
        },
    ),
    "gpt-neox": Architecture("GPTNeoXConfig", _sizes("num_key_value_heads")),
    "gptj": Architecture(
        "GPTJConfig",
        {
            "vocab_size": VOCABULARY,
            "n_positions": 128,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "rotary_dim": 4,
        },
    ),
    "opt": Architecture(
        "OPTConfig",
        _sizes("intermediate_size", "num_key_value_heads", word_embed_proj_dim=32, ffn_dim=48),
    ),
    "opt, projected": Architecture(
        "OPTConfig",
        _sizes(
            "intermediate_size",
            "num_key_value_heads",
            word_embed_proj_dim=20,
            ffn_dim=48,
            do_layer_norm_before=False,
        ),
    ),
    "bloom": Architecture(
        "BloomConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        grow=12,
    ),
    "falcon, old": Architecture(
        "FalconConfig", _sizes("intermediate_size", "num_key_value_heads", multi_query=True)
    ),
    "falcon, new": Architecture(
        "FalconConfig",
        _sizes(
            "intermediate_size",
            "num_key_value_heads",
            num_kv_heads=2,
            new_decoder_architecture=True,
        ),
    ),
    "falcon, alibi": Architecture(
        "FalconConfig",
        _sizes(
            "intermediate_size",
            "num_key_value_heads",
            multi_query=False,
            parallel_attn=False,
            alibi=True,
            bias=True,
        ),
    ),
    "mpt": Architecture(
        "MptConfig",
        {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    ),
    "llama 2": Architecture("LlamaConfig", _sizes(num_key_value_heads=4)),
    "llama 3": Architecture(
        "LlamaConfig",
        _sizes(
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        ),
    ),
    "llama 4": Architecture(
        "Llama4TextConfig",
        _sizes(
            num_hidden_layers=4,
            head_dim=8,
            intermediate_size_mlp=48,
            num_local_experts=2,
            num_experts_per_tok=1,
            attention_chunk_size=WINDOW,
            floor_scale=8,
        ),
    ),
    "llama, dynamic rope": Architecture(
        "LlamaConfig", _sizes(max_position_embeddings=24, rope_parameters=_DYNAMIC), required=False
    ),
    "mistral": Architecture("MistralConfig", _sizes(sliding_window=WINDOW)),
    "ministral": Architecture(
        "MinistralConfig",
        _sizes(
            head_dim=8,
            sliding_window=WINDOW,
            **_WINDOWED,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
    ),
    "mixtral": Architecture("MixtralConfig", _sizes(sliding_window=None, **_EXPERTS)),
    "qwen2": Architecture(
        "Qwen2Config",
        _sizes(sliding_window=WINDOW, use_sliding_window=True, max_window_layers=1),
    ),
    "qwen3": Architecture("Qwen3Config", _sizes(head_dim=8)),
    "gemma": Architecture("GemmaConfig", _sizes(head_dim=8)),
    "gemma 2": Architecture("Gemma2Config", _sizes(**_GEMMA, **_WINDOWED), grow=20),
    "gemma 3": Architecture(
        "Gemma3TextConfig",
        _sizes(**_GEMMA, **_WINDOWED, final_logit_softcapping=30.0),
        grow=20,
    ),
    "gemma 4": Architecture(
        "Gemma4TextConfig",
        _sizes(
            num_hidden_layers=4,
            head_dim=8,
            global_head_dim=8,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention"] * 2,
            vocab_size_per_layer_input=VOCABULARY,
            hidden_size_per_layer_input=8,
            num_kv_shared_layers=0,
        ),
        vectors=False,
    ),
    "vaultgemma": Architecture("VaultGemmaConfig", _sizes(**_GEMMA, **_WINDOWED), grow=20),
    "phi": Architecture("PhiConfig", _sizes()),
    "phi 3, longrope": Architecture(
        "Phi3Config",
        _sizes(
            sliding_window=None,
            original_max_position_embeddings=24,
            rope_parameters=_LONGROPE,
        ),
    ),
    "phi 3, window": Architecture("Phi3Config", _sizes(sliding_window=WINDOW)),
    "stablelm": Architecture("StableLmConfig", _sizes()),
    "starcoder2": Architecture("Starcoder2Config", _sizes(sliding_window=WINDOW)),
    "olmo 2": Architecture("Olmo2Config", _sizes()),
    "olmo 3": Architecture("Olmo3Config", _sizes(sliding_window=WINDOW, **_WINDOWED)),
    "granite": Architecture(
        "GraniteConfig",
        _sizes(logits_scaling=8.0, embedding_multiplier=12.0, residual_multiplier=0.22),
        grow=20,
    ),
    "cohere": Architecture("CohereConfig", _sizes(), grow=15),
    "cohere2": Architecture("Cohere2Config", _sizes(sliding_window=WINDOW, **_WINDOWED), grow=15),
    "deepseek v3": Architecture(
        "DeepseekV3Config",
        _sizes(
            "num_key_value_heads",
            **_LATENT,
            moe_intermediate_size=24,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=2,
            topk_group=1,
            first_k_dense_replace=1,
        ),
    ),
    "gpt-oss": Architecture(
        "GptOssConfig", _sizes(head_dim=8, sliding_window=WINDOW, **_EXPERTS, **_WINDOWED)
    ),
    "nanochat": Architecture("NanoChatConfig", _sizes(), grow=20),
    "hyperclovax": Architecture(
        "HyperCLOVAXConfig", _sizes(logits_scaling=0.125, embedding_multiplier=4.0)
    ),
    "minicpm3": Architecture(
        "MiniCPM3Config", _sizes("num_key_value_heads", **_LATENT, dim_model_base=8)
    ),
    "modernbert-decoder": Architecture(
        "ModernBertDecoderConfig", _sizes("num_key_value_heads", local_attention=WINDOW)
    ),
    # A T5's weights are large from the start.
    "t5": Architecture("T5Config", _T5, grow=2),
    "t5 v1.1": Architecture(
        "T5Config",
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        grow=1.5,
    ),
    "mt5": Architecture("MT5Config", {**_T5, "tie_word_embeddings": False}, grow=1.5),
    "umt5": Architecture("UMT5Config", {**_T5, "tie_word_embeddings": False}, grow=1.5),
    "qwen3.5": Architecture("Qwen3_5TextConfig", _sizes(**_DELTA_NET), required=False),
    "qwen3-next": Architecture(
        "Qwen3NextConfig",
        _sizes(
            **_DELTA_NET,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=24,
            shared_expert_intermediate_size=16,
        ),
        required=False,
    ),
    "olmo hybrid": Architecture(
        "OlmoHybridConfig",
        _sizes(**{key: value for key, value in _DELTA_NET.items() if key != "head_dim"}),
        required=False,
    ),
    "lfm2": Architecture(
        "Lfm2Config",
        _sizes(num_hidden_layers=4, layer_types=["conv", "full_attention"] * 2),
        required=False,
    ),
    "mamba": Architecture(
        "MambaConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2},
        required=False,
        grow=4,
    ),
    "jamba": Architecture(
        "JambaConfig",
        _sizes(
            num_hidden_layers=4,
            attn_layer_period=2,
            attn_layer_offset=1,
            num_experts=2,
            num_experts_per_tok=1,
            mamba_d_state=8,
            use_mamba_kernels=False,
        ),
        required=False,
        grow=4,
    ),
    "zamba2": Architecture(
        "Zamba2Config",
        _sizes(
            num_hidden_layers=4,
            num_key_value_heads=4,
            layers_block_type=["mamba", "hybrid"] * 2,
            n_mamba_heads=4,
            mamba_d_state=8,
            chunk_size=8,
            use_mamba_kernels=False,
        ),
        required=False,
        grow=3,
    ),
    "bamba": Architecture(
        "BambaConfig",
        _sizes(num_hidden_layers=4, attn_layer_indices=[1, 3], **_MAMBA),
        required=False,
        grow=4,
    ),
    "granite hybrid": Architecture(
        "GraniteMoeHybridConfig",
        _sizes(
            num_hidden_layers=4,
            layer_types=["mamba", "attention"] * 2,
            shared_intermediate_size=16,
            logits_scaling=8.0,
            **_EXPERTS,
            **_MAMBA,
        ),
        required=False,
        grow=4,
    ),
    "nemotron-h": Architecture(
        "NemotronHConfig",
        _sizes(
            "num_hidden_layers",
            layers_block_type=["mamba", "full_attention", "mamba", "moe"],
            head_dim=8,
            ssm_state_size=8,
            mamba_num_heads=4,
            mamba_head_dim=16,
            n_groups=2,
            chunk_size=8,
            n_routed_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=24,
            moe_shared_expert_intermediate_size=24,
            use_mamba_kernels=False,
        ),
        required=False,
        grow=4,
    ),
    "minimax": Architecture(
        "MiniMaxConfig",
        _sizes(
            head_dim=8, block_size=8, layer_types=["linear_attention", "full_attention"], **_EXPERTS
        ),
        required=False,
        grow=4,
    ),
}

#: Models that read in both directions: as language models they would see what they are to predict.
ENCODERS: dict[str, Architecture] = {
    "bert": Architecture("BertConfig", _BERT),
    "roberta": Architecture("RobertaConfig", _BERT),
    "modernbert": Architecture("ModernBertConfig", {**_BERT, "local_attention": WINDOW}),
}


def installed(architectures: Mapping[str, Architecture]) -> list:
    """Return the names as parameters, skipped where transformers does not know them."""
    absent = pytest.mark.skip("not in this version of transformers")
    return [
        pytest.param(name, marks=() if architecture.exists else absent)
        for name, architecture in architectures.items()
    ]


#: Of those that read keys and values: every way to share heads, place positions and scale.
WITH_KEY_VALUES = {
    name: ARCHITECTURES[name]
    for name in (
        "gpt2",
        "gptj",
        "opt",
        "falcon, old",
        "falcon, new",
        "llama 3",
        "mixtral",
        "qwen3",
        "gemma",
        "granite",
        "cohere",
        "deepseek v3",
    )
}


def tiny(architecture: Architecture) -> nn.Module:
    """Return the model: random, in float32, every bias, norm and scale different from nothing."""
    configuration = architecture.configured()
    is_pair = configuration.is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if is_pair else AutoModelForCausalLM
    torch.manual_seed(0)
    if not is_pair and type(configuration) not in AutoModelForCausalLM._model_mapping:
        kind = AutoModel  # an encoder that has no causal model at all
    model = kind.from_config(configuration).float().eval()
    enlarge(model, architecture.grow)
    return model


@torch.no_grad()
def enlarge(model: nn.Module, grow: float) -> None:
    """Multiply matrices, and add to biases, norms and scales."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(grow)
        else:
            parameter.add_(0.1 * torch.randn_like(parameter))


def words(count: int, seed: int) -> list[int]:
    """Return token ids, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(VOCABULARY - 3, (count,), generator=generator) + 3).tolist()


class Embedded(Method):
    """The demonstrations' word embeddings, as vectors."""

    display_name = "Embedded"

    def contexts(self, llm, trained, demonstrations):
        """Return as many vectors as there are tokens; here the same number for each."""
        return llm.vector_context(llm.embedding(torch.tensor(demonstrations)))


def items(lengths: Sequence[int]) -> list[MultipleChoiceItem]:
    """Return items whose contexts have these lengths, one to three queries for each."""
    made = []
    for context, length in enumerate(lengths):
        for query in range(1 + context % 3):
            seed = 10 * context + query
            options = [words(count, 1000 + 10 * seed + count) for count in (1, 3, 2)]
            made.append(
                MultipleChoiceItem(
                    context,
                    words(length, 1 + context),
                    words(2 + seed % 5, 50 + seed),
                    options[: 2 + query % 2],
                )
            )
    return made


#: Inside a window and beyond it; below the switch of a longrope, around and above it.
TOKEN_ITEMS = items([9, 20, 5, 14])
VECTOR_ITEMS = items([18, 18, 18])


class Plain:
    """The model itself, one unpadded row at a time and in one pass."""

    def __init__(self, model: nn.Module) -> None:
        """Keep a copy, which nothing that ours does to the model can change."""
        self.model = copy.deepcopy(model).requires_grad_(False)
        if getattr(model.config, "attn_logit_softcapping", None):
            use_eager_attention(self.model)  # what else there is may leave the cap out
        self.embedding = self.model.get_input_embeddings()

    def log_probabilities(self, before: Sequence[int] | Tensor, text: Sequence[int]) -> Tensor:
        """Return what predicts each token of `text`, (n, vocabulary).

        before: token ids, or vectors (length, width), which are read at its head.
        """
        tokens = torch.tensor([text])
        is_tokens = not isinstance(before, Tensor)
        if self.model.config.is_encoder_decoder:
            start = torch.full((1, 1), self.model.config.decoder_start_token_id)
            read = (
                {"input_ids": torch.tensor([before])}
                if is_tokens
                else {"inputs_embeds": before[None]}
            )
            logits = self.model(
                **read, decoder_input_ids=torch.cat([start, tokens[:, :-1]], 1), use_cache=False
            ).logits[0]
        else:
            read = (
                {"input_ids": torch.tensor([[*before, *text]])}
                if is_tokens
                else {"inputs_embeds": torch.cat([before, self.embedding(tokens)[0]])[None]}
            )
            logits = self.model(**read, use_cache=False).logits[0, len(before) - 1 : -1]
        return logits.float().log_softmax(-1)

    def vectors(self, prefix: Sequence[int], vectors: Tensor) -> Tensor:
        """Return the prefix's word embeddings and `vectors` after them, (length, width)."""
        return torch.cat([self.embedding(torch.tensor(prefix, dtype=torch.long)), vectors])

    @torch.no_grad()
    def scores(self, item: MultipleChoiceItem, prefix: Sequence[int], vectors: bool) -> list[float]:
        """Return the mean log-likelihood of each option."""
        before: Any = [*prefix, *item.demonstrations]
        if vectors:
            before = self.vectors(prefix, self.embedding(torch.tensor(item.demonstrations)))
        found = []
        for option in item.options:
            each = self.log_probabilities(before, [*item.query, *option])[len(item.query) :]
            found.append(each[torch.arange(len(option)), torch.tensor(option)].mean().item())
        return found


@lru_cache(maxsize=1)
def both(name: str, prefix: tuple[int, ...] = ()) -> tuple[FrozenLLM, Plain]:
    """Return an architecture's model as ours, and itself."""
    model = tiny(ARCHITECTURES[name])
    plain = Plain(model)
    options = {"prefix": list(prefix)} if prefix else {}
    return frozen_llm(model, None, **options), plain


def scores_differ(name: str, prefix: tuple[int, ...] = (), vectors: bool = False) -> float:
    """Return the largest difference of an option's score, in nats a token."""
    llm, plain = both(name, prefix)
    asked = VECTOR_ITEMS if vectors else TOKEN_ITEMS
    method = built(llm, Embedded()) if vectors else build(llm, "vanilla-icl")
    found = score_items(llm, method, asked, context_batch_size=3)
    expected = [plain.scores(item, prefix, vectors) for item in asked]
    differences = [
        abs(mine - right)
        for ours, rights in zip(found, expected, strict=True)
        for mine, right in zip(ours, rights, strict=True)
    ]
    return torch.tensor(differences, dtype=torch.float64).max().item()  # NaN if one is


CHECKS = {
    "tokens": scores_differ,
    "vectors": partial(scores_differ, vectors=True),
    "prefix": partial(scores_differ, prefix=(1,)),
    "prefix, vectors": partial(scores_differ, prefix=(1,), vectors=True),
}


def table(names: Sequence[str]) -> None:
    """Print the worst difference of each check, or what it stopped at, a line an architecture."""
    for name in names:
        cells = []
        for check, measure in CHECKS.items():
            if not ARCHITECTURES[name].exists:
                cells = ["not in this transformers"]
                break
            try:
                cells.append(f"{check} {measure(name):.1e}")
            except UserError as error:
                cells.append(f"{check} refused: {' '.join(str(error).split())[:120]}")
            except Exception as error:  # a traceback is what the table shows
                message = " ".join(str(error).split())[:80]
                cells.append(f"{check} {type(error).__name__}: {message}")
        print(f"{name:20s} " + " | ".join(cells), flush=True)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    table(sys.argv[1:] or list(ARCHITECTURES))
