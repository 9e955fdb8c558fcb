"""A method that is ready to train, to score with, or to save."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from mend.configuration.methods import make_method
from mend.configuration.specs.run import DistillerSettings, RunSpec
from mend.methods.base import Method
from mend.models.contexts import Contexts
from mend.models.fingerprint import settings_of
from mend.models.frozen_llm import FrozenLLM
from mend.models.pretrained import listed
from mend.models.tensor_files import TensorFile, save_tensors
from mend.progress import logger


class BuiltMethod(nn.Module):
    """A method with what it trains, which are this module's parameters."""

    def __init__(self, method: Method, llm: FrozenLLM, run: RunSpec) -> None:
        """Make what `method` trains for an LLM."""
        super().__init__()
        self.method, self.name, self.reading = method, run.method.name, run.reading
        self.llm, self.run = llm, run
        for name, part in method.trained(llm, run).items():
            setattr(self, name, part)
        self.to(llm.device)
        # What is trained decides, unless the distiller is to be exact (`precision: float32`).
        self.rounds_to_tf32 = run.distiller is None or run.distiller.precision == "auto"
        self.counts_operations = True

    @property
    def reads_demonstrations(self) -> bool:
        """Whether contexts depend on the demonstrations at all."""
        return self.method.reads_demonstrations

    @property
    def distils(self) -> bool:
        """Whether the demonstrations go to a distiller."""
        return self.method.distils

    @property
    def context_length(self) -> int | None:
        """How many of the LLM's positions a context takes (`MethodSettings`)."""
        return self.method.context_length

    @property
    def keeps_positions(self) -> bool:
        """Whether a context comes after its demonstrations' own positions."""
        return self.method.keeps_positions

    def own_loss(
        self, name: str, contexts: Contexts, demonstrations: Sequence[Sequence[int]]
    ) -> Tensor:
        """Return a loss of the method's own, (contexts,); raises UserError if it has none such."""
        return self.method.own_loss(name, self.llm, self, contexts, demonstrations)

    def making_operations(self, demonstrations: Sequence[int]) -> float:
        """Return the operations of making one context (`Method.making_operations`).

        Of an architecture whose sizes are not found that is told once, and they are NaN.
        """
        if self.counts_operations:
            try:
                return self.method.making_operations(self.llm, self, demonstrations)
            except Exception as error:  # whatever it lacks, contexts are made all the same
                logger.warning("operations of making contexts will not be known: %s", error)
                self.counts_operations = False
        return math.nan

    @property
    def has_context(self) -> bool:
        """Whether the LLM reads anything before the query."""
        return self.method.has_context

    def contexts(self, llm: FrozenLLM, demonstrations: Sequence[Sequence[int]]) -> Contexts:
        """Return one context for each sequence of demonstration tokens."""
        return self.method.contexts(llm, self, demonstrations)

    def longest_context(self) -> int:
        """Return how many tokens of demonstrations are read at most (protocol.longest_context)."""
        return self.method.longest_context(self, self.reading)

    def _identity(self) -> dict[str, Any]:
        """Return what decides whether trained weights fit: all that tensors' shapes do not say."""
        distiller = self.run.distiller
        models = [part for part in self.modules() if isinstance(part, PreTrainedModel)]
        identity = {
            "method": self.name,
            "settings": self.method.model_dump(mode="json"),
            "LLM": self.llm.fingerprint,
            "distiller": distiller and distiller.subset(DistillerSettings).model_dump(mode="json"),
            "distiller's layers": distiller and distiller.layers,
            "distiller's model": [settings_of(model.config) for model in models[:1]],
        }
        return json.loads(json.dumps(identity, default=str))

    def _tensors(self) -> dict[str, Tensor]:
        """Return what is trained, by name; tensors that are shared come once."""
        names: dict[int, str] = {}
        state = self.state_dict(keep_vars=True)
        for name, tensor in state.items():
            names.setdefault(id(tensor), name)
        return {name: state[name] for name in names.values()}

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Return the state, without frozen parameters: those are the LLM's."""
        state = super().state_dict(*args, **options)
        frozen = {
            name
            for name, one in self.named_parameters(remove_duplicate=False)
            if not one.requires_grad
        }
        return {name: value for name, value in state.items() if name not in frozen}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, **options: Any) -> Any:
        """Load what `state_dict` returned."""
        if strict and (others := self.state_dict().keys() ^ state.keys()):
            raise RuntimeError(f"other names: {listed(others)}")
        return super().load_state_dict(state, strict=False, **options)

    def save(self, path: str | Path, **training: Any) -> None:
        """Write the trained weights as safetensors, with what they are of.

        training: what `load` may ask for (stage, partition), and what else is good to know.
        Raises UserError for weights that are not finite.
        """
        save_tensors(self._tensors(), path, self._identity() | training)

    def load(self, path: str | Path, **training: Any) -> None:
        """Read weights that `save` wrote.

        training: how they must have been trained, by names that `save` was given; what is None is
        not asked for.
        Raises UserError if they are of another method, LLM, distiller or training, or damaged.
        """
        file = TensorFile(path, f"weights of {self.name} as configured")
        asked = {key: value for key, value in training.items() if value is not None}
        file.check(self._identity() | asked)
        self._take(file)

    def load_as_described(self, path: Path) -> None:
        """Read weights whose folder says what they are of, which was compared (`mend.json`).

        Raises UserError if they are of another method, or damaged.
        """
        file = TensorFile(path, f"weights of {self.name} as {path.parent}/mend.json describes them")
        settings = self.method.model_dump(mode="json")
        file.check({"method": self.name, "settings": json.loads(json.dumps(settings))})
        self._take(file)

    def _take(self, file: TensorFile) -> None:
        own = self._tensors()
        if others := own.keys() ^ set(file.names):
            raise file.refuse(f"{listed(others)} are in one of them alone")
        for name, tensor in own.items():
            if file.shape(name) != list(tensor.shape):
                raise file.refuse(f"{name} has another shape")
        self.load_state_dict({name: file[name] for name in own}, strict=False)


def build_method(llm: FrozenLLM, run: RunSpec) -> BuiltMethod:
    """Build the method that a run's specification names; raises UserError if it cannot be."""
    return BuiltMethod(make_method(run.method), llm, run)
