"""Choosing among trained candidates by their dev scores: test rows have no part in it.

The dev score is that of early stopping, of the weights that it kept (`training.*.early_stopping`).
The paper searches lambda like this "for each task split and MEND independently" (appendix A).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from mend.atomic_io import atomic_folder, check_file, read_json, write_json
from mend.configuration.specs.choice import ChoiceSpec
from mend.errors import UserError
from mend.progress import logger
from mend.provenance import checksums

WEIGHTS, RECORD, DESCRIPTION = "weights.safetensors", "record.json", "mend.json"


def choose(spec: ChoiceSpec, folders: Sequence[str | Path], output: str | Path) -> None:
    """Copy the candidate with the best dev score, of equal ones the first, into a folder.

    folders: those of the candidates' trainings, in their order. Written are the chosen weights with
    their mend.json, and a record.json: that of their training, and chosen (its variant), settings
    (the chosen ones) and candidates, [{variant, settings, dev_score, step (of the kept weights),
    steps}].
    Raises UserError for a training without a dev score.
    """
    if len(folders) != len(spec.candidates):
        raise UserError(
            f"{len(spec.candidates)} candidates, and --candidates names {len(folders)} folders"
        )
    candidates = []
    for candidate, folder in zip(spec.candidates, folders, strict=True):
        check_file(Path(folder) / WEIGHTS)
        check_file(Path(folder) / DESCRIPTION)
        record = read_json(Path(folder) / RECORD)
        if not isinstance(record, dict):
            raise UserError(f"{folder}/{RECORD}: not the record of a training run")
        score, steps = record.get("best_score"), [record.get(key) for key in ("best_step", "steps")]
        if score is not None and not (
            type(score) in (int, float)
            and math.isfinite(score)
            and all(type(step) is int for step in steps)
        ):
            raise UserError(
                f"{folder}/{RECORD}: best_score, best_step and steps are no numbers; train again"
            )
        if score is None:
            raise UserError(
                f"{folder}/{RECORD}: no dev score (best_score) to choose by; set "
                f"training.{record.get('stage', '*')}.early_stopping"
            )
        found = {"dev_score": record["best_score"], "step": record["best_step"]}
        candidates.append({**dict(candidate), **found, "steps": record["steps"]})
    scores = [candidate["dev_score"] for candidate in candidates]
    best = scores.index(max(scores))
    of_training = read_json(Path(folders[best]) / RECORD)
    record = {
        **of_training,
        "variant": spec.variant,
        "partition": spec.partition,
        "chosen": candidates[best]["variant"],
        "settings": candidates[best]["settings"],
        "candidates": candidates,
        "made_of": checksums(
            [Path(folder) / name for folder in folders for name in (WEIGHTS, RECORD)],
            Path(output) / RECORD,
        ),
    }
    with atomic_folder(output) as folder:
        for name in (WEIGHTS, DESCRIPTION):
            shutil.copyfile(Path(folders[best]) / name, folder / name)
        write_json(record, folder / RECORD)
    listed = ", ".join(f"{one['variant']} {one['dev_score']:.2f}" for one in candidates)
    logger.info("choose %s %s: %s of %s", spec.llm, spec.method, record["chosen"], listed)
