"""The distiller: a small language model that turns demonstrations into l vectors (section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from mend.configuration.specs.reading import ReadingSettings
from mend.configuration.specs.run import DistillerSource
from mend.errors import UserError
from mend.models.frozen_llm import FrozenLLM, max_positions, pad_left, pad_right, takes_position_ids
from mend.models.kernels.activations import fuse_activations
from mend.models.kernels.partial_prefill import last_states
from mend.progress import logger


class Distiller(nn.Module):
    """S = MEND(concat(E_D, E_placeholders))[-l:], the paper's section 3.

    The demonstrations D are followed by l trained placeholder vectors; the last hidden states of
    the placeholders are the distilled vectors. Where the distiller is narrower or wider than the
    LLM, a linear layer and a tanh bring them to the LLM's width (`protocol.projection`).

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
    ) -> None:
        """Build around a base model (without its language-modelling head).

        length: l, the number of distilled vectors.
        padded_length: where the placeholders start if they come `after-padding`
            (`protocol.placeholder_position`).
        """
        super().__init__()
        self.backbone = fuse_activations(backbone)
        self.decodes = hasattr(backbone, "encoder") and hasattr(backbone, "decoder")
        embedding = backbone.get_input_embeddings()
        width = embedding.weight.shape[1]
        if placeholder_initialisation == "vocabulary":
            # Clone: the placeholders are trained apart from the words they start as.
            words = torch.randint(embedding.weight.shape[0], (length,))
            start = embedding.weight[words].detach().clone().float()
        else:
            start = torch.randn(length, width) * embedding.weight.detach().float().std()
        self.placeholders = nn.Parameter(start)
        if width == llm_width:
            self.projection: nn.Module = nn.Identity()
        else:
            layers: list[nn.Module] = [nn.Linear(width, llm_width)]
            if projection == "linear-tanh":
                layers.append(nn.Tanh())
            self.projection = nn.Sequential(*layers)
        self.padded_length = padded_length if placeholder_position == "after-padding" else None
        self.max_positions = max_positions(backbone.config)
        self.takes_position_ids = takes_position_ids(backbone)

    @property
    def length(self) -> int:
        """l, the number of distilled vectors."""
        return self.placeholders.shape[0]

    def longest_context(self, reading: ReadingSettings) -> int:
        """Return how many tokens fit before the placeholders, at most the protocol's longest."""
        return min(reading.longest_context.distiller, self.max_positions - self.length)

    def forward(self, demonstrations: Sequence[Sequence[int]]) -> Tensor:
        """Distil each sequence of token ids into (sequences, l, LLM width) vectors."""
        if self.decodes:
            return self._decode(demonstrations)
        device = self.placeholders.device
        if self.padded_length is None:
            ids, mask = pad_left(demonstrations, device)
        else:
            ids, mask = pad_right(demonstrations, device)
            missing = max(0, self.padded_length - ids.shape[1])
            ids = nn.functional.pad(ids, (0, missing))
            mask = nn.functional.pad(mask, (0, missing))
        placeholders = self.placeholders.expand(len(ids), -1, -1).to(self.backbone.dtype)
        embeddings = torch.cat([self.backbone.get_input_embeddings()(ids), placeholders], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(ids), self.length)], dim=1)
        position_ids = None
        if self.takes_position_ids and self.padded_length is None:
            # Only real tokens count: the vectors do not depend on the batch's padding.
            position_ids = mask.cumsum(1).sub(1).clamp(min=0)
        elif self.takes_position_ids:
            position_ids = torch.arange(mask.shape[1], device=device).expand(len(ids), -1)
        states = last_states(self.backbone, embeddings, mask, position_ids, self.length)
        return self.projection(states.float())

    def _decode(self, demonstrations: Sequence[Sequence[int]]) -> Tensor:
        # Attention needs something to attend to: no demonstrations are one end of text.
        end = [self.backbone.config.eos_token_id]
        ids, mask = pad_left([one or end for one in demonstrations], self.placeholders.device)
        placeholders = self.placeholders.expand(len(demonstrations), -1, -1)
        states = self.backbone(
            input_ids=ids,
            attention_mask=mask,
            decoder_inputs_embeds=placeholders.to(self.backbone.dtype),
            use_cache=False,
        ).last_hidden_state
        return self.projection(states.float())


def distilling_part(backbone: nn.Module, part: str | None) -> nn.Module:
    """Return what of a base model distils: of an encoder-decoder its encoder, or all of it.

    part: "encoder" (the default) or "decoder". Raises UserError if it is given for another model.
    """
    if backbone.config.is_encoder_decoder:
        return backbone if part == "decoder" else backbone.get_encoder()
    if part:
        raise UserError(
            f"llms: distiller.part: {part} is for encoder-decoder models; leave it out for "
            f"{backbone.config.model_type}"
        )
    return backbone


def load_distiller(
    source: DistillerSource, length: int, reading: ReadingSettings, llm: FrozenLLM
) -> Distiller:
    """Build a distiller of `length` vectors for an LLM.

    Raises UserError if its model cannot be loaded, is of another vocabulary than the LLM's, or has
    no position left beside l placeholders.
    """
    try:
        backbone = AutoModel.from_pretrained(
            source.path,
            revision=source.revision,
            local_files_only=source.local_files_only,
            dtype=torch.float32,
        )
    except OSError as error:
        raise UserError(f"llms: cannot load the distiller {source.path!r}: {error}") from error
    backbone = distilling_part(backbone, source.part)
    if backbone.get_input_embeddings().weight.shape[0] < len(llm.tokenizer):
        raise UserError(
            f"llms: the distiller {source.path!r} knows fewer tokens than the LLM's tokenizer; "
            "both must share one tokenizer"
        )
    _check_tokenizer(source, llm)
    longest = reading.longest_context.distiller
    distiller = Distiller(
        backbone,
        length=length,
        llm_width=llm.width,
        projection=source.projection,
        placeholder_initialisation=source.placeholder_initialisation,
        placeholder_position=source.placeholder_position,
        padded_length=min(longest, max_positions(backbone.config) - length),
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


def _check_tokenizer(source: DistillerSource, llm: FrozenLLM) -> None:
    """Raise UserError if the distiller came with another tokenizer than the LLM's."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.path, revision=source.revision, local_files_only=source.local_files_only
        )
    except (OSError, ValueError):
        return  # it came with none
    own, other = tokenizer.get_vocab(), llm.tokenizer.get_vocab()
    differing = next((word for word, index in other.items() if own.get(word) != index), None)
    if differing is not None:
        raise UserError(
            f"llms: the distiller {source.path!r} has another tokenizer than the LLM: "
            f"{differing!r} is token {other[differing]} of the LLM and "
            f"{own.get(differing, 'none')} of the distiller; choose a distiller of the same family"
        )
