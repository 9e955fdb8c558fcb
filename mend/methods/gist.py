"""Gist tokens (Mu et al., 2023): keys and values that are trained on tasks alone.

"Learning to Compress Prompts with Gist Tokens" finetunes an LLM on instructions with a mask that
hides the prompt from all but the gist tokens after it, so that their keys and values must carry it.
What differs here: the LLM that answers stays frozen, so what is adapted is the copy that makes the
keys and values (with LoRA; the paper adapts all of the one model that does both). So it is the
500xCompressor's form without its pretraining; which losses train it is in the configuration.
"""

from __future__ import annotations

from mend.methods.kv_compressor import KVCompressor


class Gist(KVCompressor):
    """Keys and values of l gist tokens, finetuned alone."""

    display_name = "Gist"
