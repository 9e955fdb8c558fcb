"""What is only speed: the same numbers, to rounding, by ways around transformers' own code.

The environment variable MEND_KERNELS=0 turns all of them off, and every model computes what
transformers writes; MEND_KERNELS=activations,tree_attention leaves those two on.
`benchmarks/kernel_gains.py` measures what each gains; their docstrings say what it found.
"""

from __future__ import annotations

import os

from mend.errors import UserError

KERNELS = ("activations", "cross_attention", "tree_attention")


def enabled(kernel: str) -> bool:
    """Return whether one of `KERNELS` is on: for models from here on, and calls from here on.

    Raises UserError if the variable names another.
    """
    chosen = os.environ.get("MEND_KERNELS", ",".join(KERNELS)).split(",")
    if unknown := set(chosen) - {*KERNELS, "0"}:
        raise UserError(
            f"MEND_KERNELS: no kernel is named {min(unknown)!r}; 0 turns all off, some names of "
            f"{', '.join(KERNELS)} leave these on, and without the variable all are on"
        )
    return kernel in chosen
