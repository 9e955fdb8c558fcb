"""Checkpoints, from which a killed training job resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import nn

from mend.atomic_io import atomic_file
from mend.training.distributed import Processes

#: What a checkpoint holds; one of another format is not used.
FORMAT = 4


class Checkpoint:
    """One file beside a job's output, replaced as a whole each time.

    It holds weights, optimizer, every process's random state and the caller's own state, and the
    job's specification: a job with other settings does not resume from it.
    """

    def __init__(self, folder: str | Path, spec: dict) -> None:
        """Keep the file in `folder`, which must not be one of the job's declared outputs."""
        self.path = Path(folder) / "state.pt"
        self.spec = json.dumps([FORMAT, spec], sort_keys=True)

    def save(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: dict,
        processes: Processes | None = None,
    ) -> None:
        """Write the state of now; the first process writes for all, and all must call."""
        processes = processes or Processes()
        random = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        random = processes.all_gather(random)
        if not processes.is_first:
            return
        with atomic_file(self.path) as temporary:
            torch.save(
                {
                    "spec": self.spec,
                    "weights": module.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "random": random,
                    "state": state,
                },
                temporary,
            )

    def load(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        processes: Processes | None = None,
    ) -> dict | None:
        """Restore what was saved and return the caller's state; None if there is none to use.

        With another number of processes than before, random numbers go on as they are.
        """
        processes = processes or Processes()
        if not self.path.exists():
            return None
        saved = torch.load(self.path, weights_only=True, map_location="cpu")
        if saved["spec"] != self.spec:
            return None
        module.load_state_dict(saved["weights"])
        optimizer.load_state_dict(saved["optimizer"])
        if len(saved["random"]) == processes.count:
            random = saved["random"][processes.rank]
            torch.set_rng_state(random["cpu"])
            if "cuda" in random and torch.cuda.is_available():
                torch.cuda.set_rng_state(random["cuda"])
        return saved["state"]

    def remove(self) -> None:
        """Forget the checkpoint: the job is done."""
        shutil.rmtree(self.path.parent, ignore_errors=True)
