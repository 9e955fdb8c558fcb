"""Lists of names that a configuration chooses from; each stands here and nowhere else."""

from __future__ import annotations

from typing import Literal, get_args

Partition = Literal[
    "class_to_class",
    "non_class_to_class",
    "non_nli_to_nli",
    "non_qa_to_qa",
    "qa_to_qa",
    "hr_to_lr",
    "non_paraphrase_to_paraphrase",
]
"""The meta-train/meta-test partitions of MetaICL (Min et al., 2022, table 1)."""

PARTITIONS: tuple[str, ...] = get_args(Partition)

TaskType = Literal["classification", "multi-choice", "free-form"]
TASK_TYPES: tuple[str, ...] = get_args(TaskType)

Stage = Literal["pretrain", "finetune"]
STAGES: tuple[str, ...] = get_args(Stage)

Loss = Literal["distill", "clm", "pred", "choice"]
LOSSES: tuple[str, ...] = get_args(Loss)
OF_ANSWERS = ("pred", "choice")
"""The losses of finetuning alone: pretraining text has no answers."""

Metrics = Literal["metaicl", "paper"]
METRICS: tuple[str, ...] = get_args(Metrics)

TaskMean = Literal["plain", "authors"]
TASK_MEANS: tuple[str, ...] = get_args(TaskMean)

Preset = Literal["default", "paper", "authors-code", "metaicl"]
PRESETS: tuple[str, ...] = get_args(Preset)

Dtype = Literal["float32", "bfloat16", "float16"]

PaperLLM = Literal["gpt2-large", "gpt2-xl", "t5-lm-large", "opt-6.7b", "flan-t5-xl"]
"""The LLMs of the paper's tables."""

ALL_PARTITIONS = "all"
"""The partition of runs that are not finetuned: one job for the tasks of all partitions."""

TRAIN_ROWS = 16
"""Training rows of a meta-test task and seed, in MetaICL's files."""

MOST_META_TRAIN_ROWS = 16_384
"""Rows of a meta-train task, at most: MetaICL's files say it in their names."""

POCKET_SEEDS = (13, 21, 42, 87, 100)
"""Seeds of the pocket tasks: MetaICL's."""

POCKET_TRAIN_ROWS = 100
"""Rows of the smallest meta-train tasks of the pocket world."""

ENCODER_DECODERS = ("t5", "mt5", "umt5")
"""Encoder-decoder architectures whose numbers are right: those with relative positions."""
