"""What training computes, in the plainest way: single queries, no padding, eager attention.

`Reference` is written on the models' own forward passes and on nothing of this library.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from helpers.models import use_eager_attention
from mend.configuration.specs.training import Losses, LossSettings
from mend.data.examples import Example


class Reference(nn.Module):
    """A frozen LLM and a distiller as they are before our library gets them.

    Its parameters have the names of the distiller's. query_in: where an encoder-decoder's query
    goes. prefix: token ids before every context, of the LLM and of the distiller.
    """

    def __init__(
        self,
        model: nn.Module,
        backbone: nn.Module,
        length: int,
        query_in: str | None = None,
        prefix: Sequence[int] = (),
        dtype: torch.dtype = torch.float64,
        mixed: bool = False,
    ) -> None:
        """Copy the models: compute the LLM in `dtype`, the distiller in float32 or wider.

        length: l, how many placeholders there are; they are random, as is the projection.
        mixed: whether the distiller is computed under autocast to `dtype`.
        """
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        widths = [part.get_input_embeddings().weight.shape[1] for part in (backbone, model)]
        torch.manual_seed(2)
        self.placeholders = nn.Parameter(torch.randn(length, widths[0]))
        self.projection = nn.Identity()
        if widths[0] != widths[1]:
            self.projection = nn.Sequential(nn.Linear(*widths), nn.Tanh())
        self.to(torch.promote_types(dtype, torch.float32))
        # Apart from the parameters: what is trained is the distiller.
        self.parts = {"llm": copy.deepcopy(model).to(dtype).requires_grad_(False)}
        for part in (self.llm, self.backbone):
            # transformers scales a Falcon's ALiBi otherwise in eager attention than in any other.
            if not getattr(part.config, "alibi", False):
                use_eager_attention(part)
        self.query_in, self.prefix = query_in, list(prefix)
        self.autocast = torch.autocast("cpu", dtype) if mixed else nullcontext()

    @property
    def llm(self) -> nn.Module:
        """The frozen LLM."""
        return self.parts["llm"]

    def distil(self, demonstrations: Sequence[int]) -> Tensor:
        """Return the vectors of one sequence of demonstrations, (l, width)."""
        with self.autocast:
            states = self._placeholder_states([*self.prefix, *demonstrations])
        return self.projection(states.to(self.placeholders.dtype))[0]

    def _placeholder_states(self, read: Sequence[int]) -> Tensor:
        config = self.backbone.config
        if config.is_encoder_decoder and hasattr(self.backbone, "decoder"):
            return self.backbone(
                input_ids=torch.tensor([read or [config.eos_token_id]]),
                decoder_inputs_embeds=self.placeholders[None],
            ).last_hidden_state
        rows = torch.cat([embedded(self.backbone, read), self.placeholders])[None]
        return self.backbone(inputs_embeds=rows).last_hidden_state[:, len(read) :]

    def log_probabilities(
        self, context: Sequence[int] | Tensor, x: Sequence[int], y: Sequence[int], stage: str
    ) -> Tensor:
        """Return what predicts each token, (tokens, vocabulary), in float32 or wider.

        context: token ids, or vectors (length, width). The tokens are those of x and y, or y alone
        where an encoder reads the query. Where nothing precedes the first token, NaN predicts it.
        """
        inputs, text = [], [*x, *y]
        if self.query_in == "encoder" and stage == "finetune":
            inputs, text = list(x), list(y)
        if isinstance(context, Tensor):
            words = [embedded(self.llm, part) for part in (self.prefix, inputs)]
            before = torch.cat([words[0], context.to(words[0].dtype), words[1]])
        else:
            before = [*self.prefix, *context, *inputs]
        if self.llm.config.is_encoder_decoder:
            if not len(before):
                before = [self.llm.config.eos_token_id]
            read = {"inputs_embeds" if isinstance(before, Tensor) else "input_ids": row_of(before)}
            decoded = [self.llm.config.decoder_start_token_id, *text[:-1]]
            logits = self.llm(**read, decoder_input_ids=row_of(decoded), use_cache=False).logits[0]
        elif isinstance(before, Tensor):
            rows = torch.cat([before, embedded(self.llm, text[:-1])])[None]
            logits = self.llm(inputs_embeds=rows, use_cache=False).logits[0, len(before) - 1 :]
        else:
            ids = row_of([*before, *text[:-1]])
            logits = self.llm(input_ids=ids, use_cache=False).logits[0]
            nothing = torch.full_like(logits[:1], torch.nan)
            logits = torch.cat([nothing, logits])[len(before) :]
        wide = torch.promote_types(logits.dtype, torch.float32)
        return logits.to(wide).log_softmax(-1)

    def query_losses(
        self, example: Example, stage: str, objective: LossSettings
    ) -> Iterator[dict[str, Tensor]]:
        """Yield the losses of each of an example's queries."""
        for x, y in example.queries:
            vectors = self.distil(example.demonstrations)
            student = self.log_probabilities(vectors, x, y, stage)
            with torch.no_grad():
                teacher = self.log_probabilities(example.teacher_demonstrations, x, y, stage)
            text = [*x, *y][-len(student) :]
            answer = len(y)
            nll = torch.stack([-row[token] for row, token in zip(student, text, strict=True)])
            covered = list(range(len(text)))
            if stage == "pretrain" or objective.distill_in_finetuning == "input":
                covered = covered[: len(text) - answer]
            if not objective.distill_first_token:
                covered = [place for place in covered if place > 0]
            # A teacher without demonstrations and prefix does not predict the first token.
            covered = [place for place in covered if not teacher[place].isnan().any()]
            pred = nll[len(text) - answer :]
            yield {
                "distill": mean(kl_divergence(teacher[covered], student[covered])),
                "clm": mean(nll[: len(text) - answer]),
                "pred": pred.sum() if objective.prediction_loss == "sum" else mean(pred),
            }

    def losses(
        self, examples: Sequence[Example], weights: Losses, stage: str, objective: LossSettings
    ) -> dict[str, Tensor]:
        """Return each loss of a batch: the mean over its queries, of those of non-zero weight."""
        found = [
            one for example in examples for one in self.query_losses(example, stage, objective)
        ]
        return {
            name: sum(one[name] for one in found) / len(found)
            for name in ("distill", "clm", "pred")
            if getattr(weights, name)
        }


def kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(teacher || student) of log-probabilities, for each token."""
    return (teacher.exp() * (teacher - student)).sum(-1)


def embedded(model: nn.Module, tokens: Sequence[int]) -> Tensor:
    """Return word embeddings, (tokens, width)."""
    return model.get_input_embeddings()(torch.tensor(tokens, dtype=torch.long))


def row_of(values: Sequence[int] | Tensor) -> Tensor:
    """Return a batch of one row."""
    return values[None] if isinstance(values, Tensor) else torch.tensor([values])


def mean(values: Tensor) -> Tensor:
    """Return the mean, 0 of nothing."""
    return values.mean() if len(values) else values.sum()
