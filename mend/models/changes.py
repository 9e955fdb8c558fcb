"""What low-rank weights and additions change in a decoder-only LLM, by hooks on its modules.

The hooks are there for as long as rows are read, also where that stops at an error. Rows may be
repeated, each next to its copies, as `generate` does for beams and for several texts a query.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mend.errors import UserError
from mend.models.architecture import name_of_blocks
from mend.models.compilation import uncompiled
from mend.models.contexts import AdditionContexts, Changes, LowRankContexts
from mend.models.padding import indices

#: How architectures call the modules that make an attention's queries and values, or, where one
#: makes both, that one.
QUERIES_AND_VALUES = (
    *("q_proj", "v_proj", "Wq", "Wv", "q_b_proj", "kv_b_proj"),
    *("c_attn", "query_key_value", "qkv_proj", "Wqkv"),
)


def linear_modules(model: nn.Module, names: Collection[str]) -> dict[str, tuple[int, int]]:
    """Return the sizes, (in, out), of a model's linear modules whose names end with one of `names`.

    They come by their whole names, and a name's end is its last part.
    """
    found = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] not in names:
            continue
        if isinstance(module, nn.Linear):
            found[name] = module.in_features, module.out_features
        elif isinstance(module, Conv1D):
            found[name] = tuple(module.weight.shape)
    return found


def blocks_of(body: nn.Module) -> nn.ModuleList:
    """Return a body's blocks; raises UserError if they are not found."""
    name = name_of_blocks(body)
    if name is None:
        raise UserError(f"llms: the blocks of this {body.config.model_type} are not found")
    return body.get_submodule(name)


def linear_names(body: nn.Module) -> set[str]:
    """Return the last parts of the names of all linear modules in a body's blocks."""
    return {
        name.rpartition(".")[2]
        for name, module in blocks_of(body).named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


@contextmanager
def states_of_block(body: nn.Module, block: int) -> Iterator[list[Tensor]]:
    """Keep the states that a block returns in each pass, (rows, n, width)."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, given: tuple, output: Any) -> None:
        kept.append(output if isinstance(output, Tensor) else output[0])

    with uncompiled(body):
        handle = blocks_of(body)[block].register_forward_hook(keep)
        try:
            yield kept
        finally:
            handle.remove()


@contextmanager
def changed(
    model: nn.Module,
    body: nn.Module,
    contexts: Changes,
    owner: Sequence[int],
    places: Sequence[int],
) -> Iterator[None]:
    """Let a model read rows as contexts change it, each as its own context does.

    owner: whose context each row comes after. places: the position in each row, padding before it
    included, of the last token before what is predicted; a negative one is none.
    """
    with ExitStack() as stack:
        stack.enter_context(uncompiled(model))
        # Of each row its own; one that is the same for all comes once.
        of_rows = contexts.select(owner[:1] if len(set(owner)) == 1 else owner)
        if isinstance(of_rows, LowRankContexts):
            for name, down in of_rows.down.items():
                hook = _low_rank(name, down, of_rows.up[name])
                handle = model.get_submodule(name).register_forward_hook(hook)
                stack.callback(handle.remove)
        else:
            for handle in _addition_hooks(body, of_rows, places):
                stack.callback(handle.remove)
        yield


def _low_rank(name: str, down: Tensor, up: Tensor) -> Callable:
    """Return what adds up down x to a module's output; down, up: of each row, or one of all."""

    def hook(module: nn.Module, given: tuple, output: Tensor) -> Tensor:
        states = given[0]
        if states.dim() < 3 or len(states) % len(down):
            raise UserError(
                f"llms: {name} does not get one row after the other, so low-rank weights cannot be "
                "added to it; choose other modules"
            )
        a, b = (_repeated(part.to(states), len(states)) for part in (down, up))
        return output + (states.flatten(1, -2) @ a.mT @ b.mT).view_as(output)

    return hook


def _repeated(rows: Tensor, number: int) -> Tensor:
    """Return rows for a batch of so many, each row's copies next to it."""
    return rows if len(rows) in (1, number) else rows.repeat_interleave(number // len(rows), 0)


def _addition_hooks(
    body: nn.Module, contexts: AdditionContexts, places: Sequence[int]
) -> Iterator[Any]:
    """Add vectors, of each row or one for all, after blocks of a body; yield what removes that."""
    read = {"before": 0}

    def look(module: nn.Module, given: tuple, options: Mapping[str, Any]) -> None:
        cache = options.get("past_key_values")
        read["before"] = 0 if cache is None else cache.get_seq_length()

    yield body.register_forward_pre_hook(look, with_kwargs=True)
    for block, vectors in contexts.vectors.items():

        def hook(module: nn.Module, given: tuple, output: Any, added: Tensor = vectors) -> Any:
            states = output if isinstance(output, Tensor) else output[0]
            copies = len(states) // len(places)
            here = [
                (row, place - read["before"])
                for row, place in enumerate(places)
                if 0 <= place - read["before"] < states.shape[1]
            ]
            if not here:
                return None
            chosen = [row * copies + copy for row, _ in here for copy in range(copies)]
            where = [place for _, place in here for _ in range(copies)]
            rows = indices(chosen, states.device)
            values = added.to(states)
            values = values if len(values) == 1 else _repeated(values, len(states))[rows]
            index = rows, indices(where, states.device)
            states = states.index_put(index, values, accumulate=True)
            if isinstance(output, Tensor):
                return states
            return type(output)([states, *output[1:]])

        yield blocks_of(body)[block].register_forward_hook(hook)
