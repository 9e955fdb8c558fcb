"""Tiny random models for tests: every architecture that tests run, and a word tokenizer."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    T5Config,
)

from mend.configuration.specs.reading import LongestContext, ReadingSettings, Separators
from mend.configuration.specs.run import DistillerSettings, LLMSource, MethodSource, RunSpec
from mend.configuration.specs.training import Losses, LossSettings, TrainingSettings
from mend.methods.base import Method
from mend.methods.built import BuiltMethod, build_method
from mend.models.distiller import DistillerModel, distilling_part
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import frozen_llm

VOCABULARY = 61

READING = ReadingSettings(
    longest_context=LongestContext(llm=40, distiller=40),
    separators=Separators(input_output=" ", demonstrations=" "),
    demonstration_overflow="omit",
    example_truncation="input-and-output",
    longest_example=20,
)
OBJECTIVE = LossSettings(
    llm_dropout_in_training=False,
    distill_first_token=True,
    distill_in_finetuning="input-and-output",
    prediction_loss="mean",
)
TRAINING = TrainingSettings(
    stage="finetune",
    steps=12,
    batch_size=4,
    learning_rate=0.05,
    warmup_fraction=0.1,
    schedule="linear",
    weight_decay=0.0,
    gradient_clip=1.0,
    betas=[0.9, 0.999],
    losses=Losses(pred=1.0),
    checkpoint_every=100,
    log_every=1,
    seed=0,
)
DISTILLING = DistillerSettings(
    projection="linear-tanh",
    placeholder_position="after-demonstrations",
    placeholder_initialisation="vocabulary",
)


def _grouped_heads(configuration: type, width: int) -> PretrainedConfig:
    return configuration(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
    )


CONFIGURATIONS = {
    "gpt2": lambda width: GPT2Config(
        vocab_size=VOCABULARY, n_positions=96, n_embd=width, n_layer=2, n_head=4
    ),
    "opt": lambda width: OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        word_embed_proj_dim=width,
        num_hidden_layers=2,
        ffn_dim=4 * width,
        num_attention_heads=4,
        max_position_embeddings=96,
    ),
    "llama": lambda width: _grouped_heads(LlamaConfig, width),
    "qwen2": lambda width: _grouped_heads(Qwen2Config, width),
    "gpt-neox": lambda width: GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=96,
    ),
}


def t5_configuration(width: int, version: str = "t5") -> T5Config:
    """Return a tiny T5, or with "t5-v1.1" one whose output head is not tied to its embeddings."""
    return T5Config(
        vocab_size=VOCABULARY,
        d_model=width,
        d_kv=4,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        dropout_rate=0.1,
        feed_forward_proj="gated-gelu" if version == "t5-v1.1" else "relu",
        tie_word_embeddings=version == "t5",
        scale_decoder_outputs=version == "t5",
        decoder_start_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )


ENCODER_DECODERS = ("t5", "t5-v1.1")


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of the words w0, w1, ..., each one token."""
    words = {f"w{index}": index for index in range(VOCABULARY - 1)} | {"[UNK]": VOCABULARY - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[UNK]", pad_token="[UNK]"
    )


def random_llm(architecture: str = "gpt2", width: int = 16, dropout: bool = False) -> FrozenLLM:
    """Return a random LLM whose outputs differ well between inputs."""
    torch.manual_seed(0)
    if architecture in ENCODER_DECODERS:
        model = AutoModelForSeq2SeqLM.from_config(t5_configuration(width, architecture))
    else:
        model = AutoModelForCausalLM.from_config(CONFIGURATIONS[architecture](width))
        _enlarge(model)
    return frozen_llm(model, word_tokenizer(), dropout)


def run_spec(name: str, **settings) -> RunSpec:
    """Return what a job is told of a method, with an LLM that is nowhere."""
    source = MethodSource(name=name, settings=settings)
    return RunSpec(llm=LLMSource(name="tiny", path="tiny"), method=source, reading=READING)


def build(llm: FrozenLLM, name: str, **settings) -> BuiltMethod:
    """Return a method that needs no distiller, with these settings of its own."""
    return build_method(llm, run_spec(name, **settings))


def built(llm: FrozenLLM, method: Method) -> BuiltMethod:
    """Return a method of a test's own, ready to train and to score with."""
    return BuiltMethod(method, llm, run_spec("of-a-test"))


def random_distiller(
    llm: FrozenLLM,
    width: int = 16,
    length: int = 3,
    architecture: str = "gpt2",
    part: str | None = None,
    **options,
) -> DistillerModel:
    """Return a random distiller for `llm`, without dropout."""
    torch.manual_seed(1)
    if architecture in ENCODER_DECODERS:
        backbone = AutoModel.from_config(t5_configuration(width, architecture))
        backbone = distilling_part(backbone, part)
    else:
        backbone = AutoModel.from_config(CONFIGURATIONS[architecture](width))
        _enlarge(backbone)
    return DistillerModel(backbone, length, llm.width, **options).eval()


def use_eager_attention(model: torch.nn.Module) -> None:
    """Let a model and each part with settings of its own attend in the plainest way."""
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            part.config._attn_implementation = "eager"


def with_plain_products(model: torch.nn.Module) -> torch.nn.Module:
    """Return a model that computes by plain products, which alone PyTorch counts everywhere."""
    use_eager_attention(model)
    for part in model.modules():
        if hasattr(getattr(part, "config", None), "_experts_implementation"):
            part.config._experts_implementation = "eager"
    return model


def _enlarge(model: torch.nn.Module) -> None:
    """Larger weights than at initialisation: else every token is about as likely as another."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)


def random_tokens(length: int, seed: int) -> list[int]:
    """Return `length` random word ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY - 1, (length,), generator=generator).tolist()
