"""How many positions a model has, from what its `config.json` says.

The workflow asks before any job, a job asks of the configuration that it loaded: one answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: The keys that hold it, in one architecture or another. MPT's biases are a table of this length.
KEYS = ("n_positions", "max_position_embeddings", "max_seq_len", "n_ctx")


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens a model can read in all; None if there is no limit.

    config: its `config.json`, or what a loaded configuration's `to_dict` returns. A model that
        reads images as well has that of its text model within.
    There is no limit for relative positions (T5), biases by distance (ALiBi: Bloom, a Falcon) and
    recurrent models. The window of a layer with local attention is none: what is older is not seen
    by this layer, as in training. Raises ValueError for a limit that is no positive whole number.
    """
    if isinstance(inner := config.get("text_config"), Mapping):
        return max_positions(inner)
    if "relative_attention_num_buckets" in config or config.get("alibi"):
        return None
    for key in KEYS:
        value = config.get(key)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{key}: {value!r} is no number of positions")
            return value
    return None
