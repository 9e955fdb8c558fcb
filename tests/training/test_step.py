"""What a training step leaves undone: it does not wait for its device, and launches little."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.architectures import words
from helpers.learning import CASES, EXAMPLES, found, gradients_of, prepared
from helpers.models import OBJECTIVE, TRAINING, built
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from mend.configuration.specs.training import Losses
from mend.data.examples import Example
from mend.methods.mend import Mend
from mend.models.distiller import DistillerModel
from mend.models.frozen_llm import LOGITS_AT_ONCE
from mend.models.loading import frozen_llm
from mend.models.padding import to_device
from mend.training.distributed import Processes
from mend.training.gradients import BatchGradients


class Transfers(TorchDispatchMode):
    """Notes which functions send tensors of the host's to another device."""

    def __init__(self) -> None:
        """Note none yet."""
        super().__init__()
        self.senders: set[str] = set()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None):
        """Compute, and note."""
        result = operator(*args, **(kwargs or {}))
        tensors = [value for value in args if isinstance(value, Tensor)]
        # A number of the host's goes along with the kernel.
        hosts = any(value.device.type == "cpu" and value.dim() for value in tensors)
        if hosts and isinstance(result, Tensor) and result.device.type != "cpu":
            ours = [frame for frame in traceback.extract_stack() if "/mend/" in frame.filename]
            self.senders.add(ours[-1].name)
        return result


@pytest.mark.parametrize("stage", EXAMPLES)
@pytest.mark.parametrize("name", CASES)
def test_a_step_does_not_look_at_what_its_device_computes(
    name: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device `meta` has shapes and no numbers: whatever needs some raises there."""
    # Old versions of transformers ask, and PyTorch does not answer for this device.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    with torch.device("meta"):
        ready = prepared(CASES[name])
    gradients = gradients_of(ready, stage, 2)
    with Transfers() as transfers:
        values, norm = gradients.compute(EXAMPLES[stage])
    assert transfers.senders == {"to_device"}
    assert {value.device.type for value in (*values.values(), norm)} == {"meta"}
    assert all(parameter.grad is not None for parameter in ready.method.parameters())


@pytest.mark.parametrize(
    "look",
    [
        lambda numbers: numbers.sum().item(),
        lambda numbers: bool(numbers.isfinite().all()),
        lambda numbers: numbers.tolist(),
        lambda numbers: numbers.cpu(),
        lambda numbers: numbers[numbers > 0],
        lambda numbers: numbers.nonzero(),
        lambda numbers: numbers.masked_select(numbers > 0),
        lambda numbers: numbers.unique(),
        lambda numbers: torch.bincount(numbers),
    ],
)
def test_a_look_at_a_device_without_numbers_raises(look: Callable[[Tensor], Any]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match="[Mm]eta"):
        look(torch.ones(3, dtype=torch.long, device="meta"))


def test_a_gpu_is_sent_pinned_memory_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pinned:
        def to(self, device: torch.device, non_blocking: bool = False) -> tuple:
            return device, non_blocking

    class OfHost:
        def pin_memory(self) -> Pinned:
            return Pinned()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu = torch.device("cuda")
    assert to_device(OfHost(), gpu) == (gpu, True)


def is_view(operator: Any) -> bool:
    """Return whether an operator computes nothing: what it returns is an argument's."""
    aliases = [returned.alias_info for returned in operator._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


class Operators(TorchDispatchMode):
    """Counts the operators that compute something: each is at least a kernel on a GPU."""

    ALLOCATE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
    VIEW = ("detach", "_unsafe_view", "_reshape_alias", "lift_fresh")

    def __init__(self) -> None:
        """Count from 0."""
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None):
        """Compute, and count."""
        name = operator.overloadpacket.__name__
        if not is_view(operator) and name not in self.ALLOCATE + self.VIEW:
            self.counts[name] += 1
        return operator(*args, **(kwargs or {}))


def gpt2(blocks: int) -> GPT2Config:
    return GPT2Config(vocab_size=61, n_positions=128, n_embd=32, n_layer=blocks, n_head=4)


def llama(blocks: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )


#: A Llama's norms and rotations are many small operators each, which compiling makes few.
@pytest.mark.parametrize(
    ("configuration", "blocks", "most"), [(gpt2, (36, 12), 2500), (llama, (30, 10), 5200)]
)
def test_how_many_operators_a_step_of_8_launches(
    configuration: Callable[[int], PretrainedConfig], blocks: tuple[int, int], most: int
) -> None:
    model = AutoModelForCausalLM.from_config(configuration(blocks[0]))
    llm = frozen_llm(model, None)
    backbone = AutoModel.from_config(configuration(blocks[1])).eval()

    class OfThisTest(Mend):
        def trained(self, llm, run):
            return {"distiller": DistillerModel(backbone, 10, llm.width)}

    method = built(llm, OfThisTest(length=10))
    changes = {"batch_size": 8, "micro_batch_size": 8, "losses": Losses(distill=1.0, pred=1.0)}
    optimizer = torch.optim.AdamW(method.parameters(), fused=True)
    gradients = BatchGradients(
        llm, method, optimizer, TRAINING.model_copy(update=changes), OBJECTIVE, Processes()
    )
    batch = []
    for index in range(8):
        shown = words(40 + index, index)
        batch.append(Example(shown, shown, [(words(8 + index % 3, 50 + index), words(2, index))]))
    gradients.compute(batch)
    optimizer.step()  # makes the optimizer's state
    with Operators() as operators:
        gradients.compute(batch)
        optimizer.step()
        optimizer.zero_grad()
    assert operators.counts.total() <= most, operators.counts.most_common(12)


class Logits(TorchDispatchMode):
    """Notes the most positions whose logits are in one tensor."""

    def __init__(self, vocabulary: int) -> None:
        """Note none yet."""
        super().__init__()
        self.vocabulary, self.most = vocabulary, 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None):
        """Compute, and note."""
        result = operator(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple) else [result]:
            if is_view(operator):
                continue
            if isinstance(made, Tensor) and made.dim() and made.shape[-1] == self.vocabulary:
                self.most = max(self.most, made.numel() // self.vocabulary)
        return result


@pytest.mark.parametrize("name", ["gpt2", "gemma 2", "t5"])
def test_the_logits_of_many_positions_never_exist_together(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prepared(CASES[name])
    predicted = sum(len(x) + len(y) for one in EXAMPLES["finetune"] for x, y in one.queries)
    counts = []
    for limit in (LOGITS_AT_ONCE, 7 * ready.llm.vocabulary):
        monkeypatch.setattr("mend.models.frozen_llm.LOGITS_AT_ONCE", limit)
        with Logits(ready.llm.vocabulary) as logits:
            found(ready, "finetune")
        counts.append(logits.most)
    assert counts == [predicted, 7]
