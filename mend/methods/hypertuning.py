"""HyperTuning (Phang et al., 2023), as the paper compares with it.

The same distiller as MEND; it differs only in its losses (no teacher), which are in the
configuration: next-token prediction in pretraining, the answer loss in finetuning.
"""

from __future__ import annotations

from mend.methods.mend import Mend


class HyperTuning(Mend):
    """MEND's architecture, trained without distillation."""

    display_name = "HyperTuning"
