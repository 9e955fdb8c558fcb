"""The distiller: a small language model that turns demonstrations into l vectors (section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from mend.configuration.specs.reading import ReadingSettings
from mend.configuration.specs.run import DistillerSource
from mend.configuration.specs.saved import SavedDistiller
from mend.data.pretrained import Pretrained
from mend.errors import UserError
from mend.models.architecture import keep_caps, max_positions, name_of_blocks, takes
from mend.models.causal import causal_states
from mend.models.devices import supports_bfloat16
from mend.models.encoder_decoder import encoder_states
from mend.models.frozen_llm import FrozenLLM
from mend.models.kernels.activations import fuse_activations
from mend.models.padding import pad_right, to_device
from mend.models.pretrained import load_model
from mend.models.verification import has_weights, verify_distiller
from mend.progress import logger


class DistillerModel(nn.Module):
    """S = MEND(concat(E_D, E_placeholders))[-l:], the paper's section 3.

    The demonstrations D are followed by l trained placeholder vectors; the last hidden states of
    the placeholders are the distilled vectors. Where the distiller is narrower or wider than the
    LLM, a linear layer and a tanh bring them to the LLM's width (`protocol.projection`). Where
    vectors are added to embeddings (`protocol.vector_base`), that layer is always there and starts
    at zero.

    The distiller of an encoder-decoder LLM is a smaller one of its family: its encoder, which reads
    the demonstrations and the placeholders after them, or all of it, whose decoder reads the
    placeholders (`llms.*.distiller.part`).
    """

    def __init__(
        self,
        backbone: nn.Module,
        length: int,
        llm_width: int,
        projection: str = "linear-tanh",
        placeholder_initialisation: str = "vocabulary",
        placeholder_position: str = "after-demonstrations",
        padded_length: int | None = None,
        prefix: Sequence[int] = (),
        vocabulary: int | None = None,
        precision: torch.dtype = torch.float32,
        vector_base: str = "none",
    ) -> None:
        """Build around a base model (without its language-modelling head).

        length: l, the number of distilled vectors.
        prefix: token ids before the demonstrations (`llms.*.prefix`).
        vocabulary: how many of the backbone's embeddings are of tokens; all by default.
        padded_length: where the placeholders start if they come `after-padding`
            (`protocol.placeholder_position`).
        precision: of the backbone's matrix products; its weights stay in float32.
        Raises UserError for a backbone that reads in both directions, or reads no vectors.
        """
        super().__init__()
        keep_caps(backbone)
        if not backbone.config.is_encoder_decoder and has_weights(backbone):
            verify_distiller(backbone)
        self.backbone = fuse_activations(backbone)
        self.decodes = hasattr(backbone, "encoder") and hasattr(backbone, "decoder")
        self.is_encoder = backbone.config.is_encoder_decoder and not self.decodes
        embedding = backbone.get_input_embeddings()
        width = embedding.weight.shape[1]
        size = min(vocabulary or embedding.weight.shape[0], embedding.weight.shape[0])
        words = torch.randint(size, (length,))
        # By the embedding's own forward pass: some scale what they look up. Cloned: placeholders
        # are trained apart from the words they start as.
        with torch.no_grad():
            start = embedding(words.to(embedding.weight.device)).clone().float()
        if placeholder_initialisation == "normal":
            start = torch.randn(length, width) * start.std()
        self.placeholders = nn.Parameter(start)
        self.adds_to_embeddings = vector_base == "last-tokens"
        if width == llm_width and not self.adds_to_embeddings:
            self.projection: nn.Module = nn.Identity()
        else:
            linear = nn.Linear(width, llm_width)
            if self.adds_to_embeddings:
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
            bounded = projection == "linear-tanh" and width != llm_width
            self.projection = nn.Sequential(linear, *([nn.Tanh()] if bounded else []))
        self.padded_length = padded_length if placeholder_position == "after-padding" else None
        self.max_positions = max_positions(backbone.config)
        self.prefix, self.precision = list(prefix), precision

    @property
    def length(self) -> int:
        """l, the number of distilled vectors."""
        return self.placeholders.shape[0]

    def longest_context(self, reading: ReadingSettings) -> int:
        """Return how many tokens fit before the placeholders, at most the protocol's longest."""
        room = self.max_positions - self.length - len(self.prefix)
        return min(reading.longest_context.distiller, room)

    def forward(self, demonstrations: Sequence[Sequence[int]]) -> Tensor:
        """Distil each sequence of token ids into (sequences, l, LLM width) vectors."""
        rows = [[*self.prefix, *tokens] for tokens in demonstrations]
        products = nullcontext()
        if self.precision != torch.float32:
            products = torch.autocast(self.placeholders.device.type, self.precision)
        with products:
            states = self._states(rows)
        return self.projection(states.float())

    def _states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the backbone's last hidden states of the placeholders, (rows, l, width)."""
        if self.decodes:
            return self._decode(rows)
        if self.padded_length is not None:
            return self._after_padding(rows)
        # Placeholders follow each row's own tokens, and padding comes after them.
        device, placeholders = self.placeholders.device, self._placeholders(len(rows))
        lengths = [len(row) + self.length for row in rows]
        ids, _ = pad_right([[*row, *[0] * self.length] for row in rows], device)
        embeddings = self.backbone.get_input_embeddings()(ids)
        places = torch.tensor([len(row) for row in rows])[:, None] + torch.arange(self.length)
        places = to_device(places, device)
        numbers = torch.arange(len(rows), device=device)[:, None]
        embeddings = embeddings.index_put((numbers, places), placeholders)
        if self.is_encoder:
            states, _ = encoder_states(self.backbone, embeddings, lengths)
        else:
            states = causal_states(self.backbone, embeddings, lengths, self.max_positions)
        return states[numbers, places]

    def _placeholders(self, rows: int) -> Tensor:
        return self.placeholders.expand(rows, -1, -1).to(self.backbone.dtype)

    def _after_padding(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Distil with the placeholders after the padding, as the authors' code does."""
        ids, mask = pad_right(rows, self.placeholders.device)
        missing = max(0, self.padded_length - ids.shape[1])
        ids, mask = (nn.functional.pad(part, (0, missing)) for part in (ids, mask))
        words = self.backbone.get_input_embeddings()(ids)
        embeddings = torch.cat([words, self._placeholders(len(rows))], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(rows), self.length)], dim=1)
        options = {"attention_mask": mask, "use_cache": False}
        if takes(self.backbone, "position_ids"):
            places = torch.arange(mask.shape[1], device=mask.device)
            options["position_ids"] = places.expand(len(rows), -1)
        states = self.backbone(inputs_embeds=embeddings, **options).last_hidden_state
        return states[:, -self.length :]

    def _decode(self, rows: Sequence[Sequence[int]]) -> Tensor:
        # Attention needs something to attend to: no demonstrations are one end of text.
        end = [self.backbone.config.eos_token_id]
        rows = [row or end for row in rows]
        ids, _ = pad_right(rows, self.placeholders.device)
        words = self.backbone.get_input_embeddings()(ids)
        encoder, decoder = self.backbone.get_encoder(), self.backbone.get_decoder()
        encoded, mask = encoder_states(encoder, words, [len(row) for row in rows])
        return decoder(
            inputs_embeds=self._placeholders(len(rows)),
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state


def distilling_part(
    backbone: nn.Module, part: str | None, layers: Sequence[int] | None = None
) -> nn.Module:
    """Return what of a base model distils: of an encoder-decoder its encoder, or all of it.

    part: "encoder" (the default) or "decoder"; layers: the blocks that are kept, all by default
    (`llms.*.distiller.layers`). Raises UserError if the model has no such part or blocks.
    """
    if backbone.config.is_encoder_decoder:
        backbone = backbone if part == "decoder" else backbone.get_encoder()
    elif part:
        raise UserError(
            f"llms: distiller.part: {part} is for encoder-decoder models; leave it out for "
            f"{backbone.config.model_type}"
        )
    if layers is not None:
        _keep_blocks(backbone, layers)
    return backbone


def _keep_blocks(model: nn.Module, layers: Sequence[int]) -> None:
    """Leave these blocks of a model alone, and of its configuration what says something of them."""
    config, key = model.config, f"llms: distiller.layers: {list(layers)}"
    stack = name_of_blocks(model)
    if stack is None or (hasattr(model, "encoder") and hasattr(model, "decoder")):
        raise UserError(
            f"{key}: of this {config.model_type} no blocks can be chosen; leave it out, or choose "
            "a decoder-only model or an encoder"
        )
    blocks = model.get_submodule(stack)
    count = len(blocks)
    if layers[-1] >= count:
        raise UserError(f"{key}: the distiller has {count} blocks, 0 to {count - 1}")
    if config.is_encoder_decoder and layers[0] != 0:
        raise UserError(f"{key}: block 0 of an encoder holds its position biases; begin with it")
    model.set_submodule(stack, nn.ModuleList(blocks[index] for index in layers))
    for setting, value in config.to_dict().items():
        # What kind each block is, such as `layer_types`: with a window of attention, or without.
        of_blocks = "layer" in setting or "block" in setting
        if of_blocks and isinstance(value, list | tuple) and len(value) == count:
            setattr(config, setting, [value[index] for index in layers])
    config.num_hidden_layers = len(layers)


def load_distiller(
    source: DistillerSource, length: int, reading: ReadingSettings, llm: FrozenLLM
) -> DistillerModel:
    """Build a distiller of `length` vectors for an LLM.

    One that was trained and saved (SavedDistiller) has random weights here: its own come next.
    Raises UserError if its model cannot be loaded, is of another vocabulary than the LLM's, or has
    no position left beside l placeholders.
    """
    where = Pretrained(source.path, source.revision, source.local_files_only, "the distiller")
    is_saved = isinstance(source, SavedDistiller)
    if is_saved:
        with where.loading("mend.json"):
            config = AutoConfig.for_model(**source.configuration)
            backbone = AutoModel.from_config(config, dtype=torch.float32)
    else:
        where.config()
        backbone = load_model(where, AutoModel, head=False, dtype=torch.float32)
    backbone = distilling_part(backbone, source.part, source.layers)
    if backbone.get_input_embeddings().weight.shape[0] < len(llm.tokenizer):
        raise UserError(
            f"llms: the distiller {source.path!r} knows fewer tokens than the LLM's tokenizer; "
            "both must share one tokenizer"
        )
    if not is_saved:
        _check_tokenizer(where, llm)
    longest = reading.longest_context.distiller
    distiller = DistillerModel(
        backbone,
        length=length,
        llm_width=llm.width,
        projection=source.projection,
        placeholder_initialisation=source.placeholder_initialisation,
        placeholder_position=source.placeholder_position,
        padded_length=min(longest, max_positions(backbone.config) - length),
        prefix=llm.prefix,
        vocabulary=llm.vocabulary,
        precision=matmul_precision(source, llm.device),
        vector_base=source.vector_base,
    )
    limit = distiller.longest_context(reading)
    if limit < 1:
        raise UserError(
            f"length: {length} vectors leave no room for demonstrations: the distiller "
            f"{source.path!r} has {distiller.max_positions} positions"
        )
    if limit < longest:
        logger.info(
            "the distiller reads at most %d tokens of demonstrations: its %d positions less l",
            limit,
            distiller.max_positions,
        )
    return distiller.to(llm.device)


def matmul_precision(source: DistillerSource, device: torch.device) -> torch.dtype:
    """Return the type of a distiller's matrix products (`llms.*.distiller.precision`)."""
    mixed = source.precision == "auto" and supports_bfloat16(device)
    return torch.bfloat16 if mixed else torch.float32


def _check_tokenizer(source: Pretrained, llm: FrozenLLM) -> None:
    """Raise UserError if the distiller came with another tokenizer than the LLM's."""
    folder = Path(source.path)
    names = ("tokenizer*", "vocab*", "merges*", "*.model")
    if folder.is_dir() and not any(any(folder.glob(name)) for name in names):
        return  # it came with none
    tokenizer = source.tokenizer()
    own, other = tokenizer.get_vocab(), llm.tokenizer.get_vocab()
    differing = next((word for word, index in other.items() if own.get(word) != index), None)
    if differing is not None:
        raise UserError(
            f"llms: the distiller {source.path!r} has another tokenizer than the LLM: "
            f"{differing!r} is token {other[differing]} of the LLM and "
            f"{own.get(differing, 'none')} of the distiller; choose a distiller of the same family"
        )
