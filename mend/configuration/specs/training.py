"""What training is told: its stage, losses, optimizer, and when to stop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from mend.configuration.choices import Metrics, Stage, TaskType
from mend.configuration.settings import Count, Seed, Settings
from mend.configuration.specs.run import RunSpec, ScoringSettings

Weight = Annotated[float, Field(ge=0, le=1e6)]


class CommonLosses(Settings):
    """Weights of the losses; those left out are 0."""

    distill: Weight = 0.0
    """Weight of the distillation loss (KL from teacher to student); lambda in finetuning."""

    clm: Weight = 0.0
    """Weight of the next-token loss on the query's text."""

    pred: Weight = 0.0
    """Weight of the loss on the answer; finetuning only."""

    choice: Weight = 0.0
    """Weight of the loss on the choice among a row's options: the cross-entropy of their mean
    log-likelihoods; finetuning only, and not of the paper."""


class Losses(CommonLosses):
    """Weights of the losses, those of the method's own file among them."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Weight] = Field(init=False)

    @property
    def own(self) -> dict[str, float]:
        """The weights of the method's own losses that count, by name."""
        return {name: weight for name, weight in (self.__pydantic_extra__ or {}).items() if weight}


class LossSettings(Settings):
    """The part of `protocol` that decides what the losses cover."""

    llm_dropout_in_training: bool
    """Whether the frozen LLM's dropout is left on while training, which makes the teacher noisy."""

    distill_first_token: bool
    """Whether the distillation loss counts the distribution of the query's first token."""

    distill_in_finetuning: Literal["input-and-output", "input"] | None
    """What the distillation loss covers in finetuning; null in pretraining, where it is the
    input."""

    prediction_loss: Literal["mean", "sum"]
    """Mean or sum of the negative log-likelihood over the output's tokens."""


class Optimisation(Settings):
    """How one stage is trained."""

    steps: Count
    """Optimiser steps."""

    batch_size: Count
    """Examples in a step."""

    micro_batch_size: Count | Literal["auto"] = "auto"
    """Examples computed at once, halved where a GPU's memory runs out. auto is the whole batch on a
    GPU, and as many as keep a processor busy elsewhere. It changes memory and speed alone."""

    compile: bool | Literal["auto"] = "auto"
    """Whether the models' blocks are compiled (torch.compile). auto does it on a GPU in a training
    of at least 1,000 steps, where it pays. It changes speed alone."""

    learning_rate: Annotated[float, Field(gt=0, le=1e3)]
    """Peak learning rate."""

    warmup_fraction: Annotated[float, Field(ge=0, le=1)]
    """Share of the steps over which the learning rate rises."""

    schedule: Literal["constant", "linear", "cosine"]
    """How the learning rate goes on after warm-up."""

    weight_decay: Annotated[float, Field(ge=0, le=1e3)]
    """AdamW's weight decay."""

    gradient_clip: Annotated[float, Field(gt=0, le=1e9)]
    """Largest norm of the gradient."""

    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
    """AdamW's betas."""


class PretrainingSettings(Settings):
    """What pretraining alone has."""

    beta: Annotated[float, Field(gt=0, lt=1)]
    """Share of a chunk that serves as demonstrations (beta)."""


class Checkpointing(Settings):
    """What is written while a job trains."""

    checkpoint_every: Count
    """Steps between two checkpoints that a killed job resumes from."""

    log_every: Count
    """Steps between two lines of metrics.jsonl."""


class DevRows(Settings):
    """Which dev rows are scored, how often, and when training stops."""

    every: Count
    """Training steps between two scores on meta-test dev rows; the last step is scored, too."""

    patience: Count
    """Scores in a row without a new best after which training stops."""

    rows_per_task: Count
    """Dev rows of each task that are scored."""

    seed: Seed
    """Whose dev rows and demonstrations are used; one of benchmark.seeds."""


class EarlyStopping(DevRows, ScoringSettings):
    """Early stopping as a job is told of it."""

    tasks: dict[str, TaskType]
    """The tasks whose dev rows are scored, and their types."""

    metrics: Metrics
    """How a task is scored."""


class TrainingSettings(Checkpointing, Optimisation):
    """One stage of a run."""

    stage: Stage
    """Pretraining on chunks, or finetuning on episodes."""

    losses: Losses
    """Weights of the losses."""

    beta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Pretraining: the share of a chunk that serves as demonstrations."""

    early_stopping: EarlyStopping | None = None
    """When to stop; null trains all steps."""

    seed: Seed
    """Seed of new weights and of the order of chunks."""

    partition: str | None = None
    """Whose meta-train tasks finetuning reads."""

    variant: str = "default"
    """What differs from the method's configuration."""


class TrainingSpec(RunSpec):
    """A training job."""

    objective: LossSettings
    """What the losses cover."""

    training: TrainingSettings
    """The stage."""
