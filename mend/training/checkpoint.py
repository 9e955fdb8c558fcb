"""Checkpoints, from which a killed training job resumes."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from mend.atomic_io import atomic_file
from mend.errors import first_line
from mend.progress import logger
from mend.training.distributed import Processes

#: What a checkpoint holds; one of another format is not used.
FORMAT = 4

T = TypeVar("T")


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
        restore: Callable[[dict], T] = lambda state: state,
    ) -> T | None:
        """Restore what was saved; None if there is none to use.

        restore: makes what is returned of the caller's state; what it raises is damage.
        A file that is damaged is told and kept aside, and the job starts from its beginning.
        With another number of processes than before, random numbers go on as they are.
        """
        processes = processes or Processes()
        saved, state, damage = None, None, ""
        if os.path.lexists(self.path):
            try:
                saved = self._read(module, optimizer)
                state = restore(saved["state"]) if saved else None
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever torch, zipfile or a disk raises
                saved, damage = None, first_line(error)
        usable = all(processes.all_gather(saved is not None))
        if damage and processes.is_first:
            self._put_aside(damage)
        if not (saved and usable):
            return None
        module.load_state_dict(saved["weights"])
        optimizer.load_state_dict(saved["optimizer"])
        if len(saved["random"]) == processes.count:
            random = saved["random"][processes.rank]
            torch.set_rng_state(random["cpu"])
            if "cuda" in random and torch.cuda.is_available():
                torch.cuda.set_rng_state(random["cuda"])
        return state

    def _read(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict | None:
        """Return the file's content, looked at in all its parts; None if it is of another job.

        Raises whatever there is to raise at a file that is damaged: nothing is changed by then.
        """
        if not self.path.is_file():
            raise OSError("it is no regular file")
        with zipfile.ZipFile(self.path) as file:
            # Torch writes checksums, and does not look at them.
            if damaged := file.testzip():
                raise ValueError(f"{damaged} is not what was written")
        saved = torch.load(self.path, weights_only=True, map_location="cpu")
        if saved["spec"] != self.spec:
            logger.info("%s is of other settings, and not gone on from", self.path)
            return None
        _check_shapes(module.state_dict(), saved["weights"])
        _check_shapes(
            optimizer.state_dict()["param_groups"][0], saved["optimizer"]["param_groups"][0]
        )
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        for index, moments in saved["optimizer"]["state"].items():
            _check_shapes(
                {"exp_avg": parameters[index], "exp_avg_sq": parameters[index]},
                {name: one for name, one in moments.items() if name != "step"},
            )
        for random in saved["random"]:
            torch.Generator().set_state(random["cpu"])
        return saved

    def _put_aside(self, damage: str) -> None:
        aside = self.path.with_name("damaged.pt")
        os.replace(self.path, aside)
        logger.warning(
            "%s cannot be read (%s): the stage starts from its beginning; the file is kept as %s "
            "until it is done",
            self.path,
            damage,
            aside.name,
        )

    def remove(self) -> None:
        """Forget the checkpoint: the job is done. What else is in its folder stays."""
        own = ["state.pt", "damaged.pt", "metrics.jsonl"]
        for path in (*map(self.path.with_name, own), *self.path.parent.glob(".*.partial")):
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):  # it is not empty
            self.path.parent.rmdir()


def _check_shapes(own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raise ValueError unless both have the same names, and tensors of the same shapes."""
    if own.keys() != saved.keys():
        raise ValueError(f"other names: {sorted(own.keys() ^ saved.keys())[:3]}")
    for name, tensor in own.items():
        if isinstance(tensor, torch.Tensor) and tensor.shape != saved[name].shape:
            raise ValueError(f"{name} has another shape")
