"""How far methods' contexts are from the demonstrations: divergence from the teacher by position.

The teacher is the frozen LLM after the demonstrations themselves (vanilla ICL), the student the
same LLM after a method's context; both read the same query after it, and then the right answer's
first token. At each token the divergence is KL(teacher || student) of their distributions of it,
in nats: what training lowers on average (equation 3), token by token, on rows that nothing was
trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from mend.atomic_io import write_parquet
from mend.configuration.specs.divergence import DivergenceRun, DivergenceSpec
from mend.configuration.specs.run import MethodSource
from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation.grouping import GroupedMethod
from mend.evaluation.predict import WEIGHTS, as_chosen, items_for
from mend.methods.built import BuiltMethod, build_method
from mend.models.contexts import Contexts
from mend.models.frozen_llm import FrozenLLM, Rows
from mend.models.loading import load_llm
from mend.models.padding import indices
from mend.progress import Progress
from mend.provenance import checksums

#: Rows that are read at once; where a GPU's memory runs out, fewer.
AT_ONCE, AT_ONCE_ON_GPU = 4, 32

DIVERGENCE_SCHEMA = pyarrow.schema(
    [
        ("llm", pyarrow.string()),
        ("method", pyarrow.string()),
        ("variant", pyarrow.string()),
        ("condition", pyarrow.string()),
        ("partition", pyarrow.string()),
        ("task", pyarrow.string()),
        ("region", pyarrow.string()),
        ("position", pyarrow.int32()),
        ("rows", pyarrow.int32()),
        ("divergence", pyarrow.float64()),
    ]
)


def run_divergence(
    spec: DivergenceSpec,
    episodes: Sequence[str | Path],
    tasks: str | Path,
    output: str | Path,
    weights: Sequence[str | Path] = (),
) -> None:
    """Measure runs' divergence from their teacher on dev rows, and write Parquet.

    episodes: of each run the file of its dev rows' demonstrations; weights: of each run that is
    trained, in the same order, the folder that its training, or `mend.evaluation.choice`, wrote.

    Columns: llm, method, variant, condition, partition, task; region, query or answer; position,
    of the query's tokens from 0, which is the first after the context, and 0 of the answer; rows,
    how many are that long; divergence, their mean in nats.
    The first token is left out where nothing at all comes before it.
    Raises UserError if there are no dev rows, files are not one for each run, or weights are of
    something else.
    """
    trained = [run for run in spec.runs if run.predict.stage]
    for option, files, runs in (("episodes", episodes, spec.runs), ("weights", weights, trained)):
        if len(files) != len(runs):
            raise UserError(f"--{option}: {len(files)} are named, and {len(runs)} runs need one")
    llm = load_llm(spec.runs[0].llm)
    progress = Progress(f"divergence {spec.runs[0].llm.name}", len(spec.runs))
    folders, records = iter(weights), []
    for done, (run, file) in enumerate(zip(spec.runs, episodes, strict=True), start=1):
        folder = next(folders) if run.predict.stage else None
        records += _of_run(llm, run, file, tasks, folder, spec.dev_seed)
        progress.update(done)
    every = sorted({task for run in spec.runs for task in run.predict.tasks})
    inputs = [*episodes, *(Path(tasks) / f"{task}.parquet" for task in every)]
    inputs += [Path(folder) / WEIGHTS for folder in weights]
    table = pyarrow.Table.from_pylist(records, schema=DIVERGENCE_SCHEMA)
    write_parquet(table, output, checksums(inputs, output))


def _of_run(
    llm: FrozenLLM,
    run: DivergenceRun,
    episodes: str | Path,
    tasks: str | Path,
    weights: str | Path | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the rows of the table of one run."""
    run = as_chosen(run, weights) if weights else run
    wanted = run.predict
    student = build_method(llm, run)
    if weights:
        of_partition = wanted.partition if wanted.stage == "finetune" else None
        student.load(Path(weights) / WEIGHTS, stage=wanted.stage, partition=of_partition)
    source = MethodSource(name="vanilla-icl")
    teacher = build_method(llm, run.model_copy(update={"method": source}))
    which: dict[str, Any] = {"seeds": [seed]}
    if wanted.perturbation:
        which |= {"perturbation": wanted.perturbation, "sampling_seed": wanted.seed}
    where = (episodes, tasks, "dev", wanted.tasks)
    rows, taught = items_for(llm, teacher, *where, **which)
    if not rows:
        raise UserError(f"{episodes}: no dev rows of {', '.join(wanted.tasks)} for seed {seed}")
    if wanted.group:
        student = GroupedMethod(student)
        which["group"] = wanted.group
    _, items = items_for(llm, student, *where, **which)
    answers = [item.options[row["gold"]][0] for row, item in zip(rows, taught, strict=True)]
    found = divergences(llm, student, teacher, items, taught, answers)
    sums: dict[tuple[str, str, int], list[float]] = {}
    for row, (first, values) in zip(rows, found, strict=True):
        *of_query, of_answer = values
        places = [("query", first + place, value) for place, value in enumerate(of_query)]
        for region, position, value in [*places, ("answer", 0, of_answer)]:
            sums.setdefault((row["task"], region, position), []).append(value)
    same = {"llm": run.llm.name, "method": run.method.name}
    same |= {key: getattr(wanted, key) for key in ("variant", "condition", "partition")}
    order = {task: number for number, task in enumerate(wanted.tasks)}
    return [
        {**same, "task": task, "region": region, "position": position}
        | {"rows": len(values), "divergence": sum(values) / len(values)}
        for (task, region, position), values in sorted(
            sums.items(), key=lambda pair: (order[pair[0][0]], pair[0][1] == "answer", pair[0][2])
        )
    ]


@torch.no_grad()
def divergences(
    llm: FrozenLLM,
    student: BuiltMethod | GroupedMethod,
    teacher: BuiltMethod,
    items: Sequence[MultipleChoiceItem],
    taught: Sequence[MultipleChoiceItem],
    answers: Sequence[int],
) -> Iterator[tuple[int, list[float]]]:
    """Yield each row's first position and the divergences from there on, that of the answer last.

    items, taught: the rows as student and teacher see them; both read the teacher's query. answers:
    the first token of the right answer. Of an LLM that predicts no query there is the answer alone.
    """
    student.eval()
    size = AT_ONCE_ON_GPU if llm.device.type == "cuda" else AT_ONCE
    start = 0
    while start < len(items):
        batch = slice(start, start + size)
        try:
            found = _of_batch(llm, student, teacher, items[batch], taught[batch], answers[batch])
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            continue
        yield from found
        start += len(found)


def _of_batch(
    llm: FrozenLLM,
    student: BuiltMethod | GroupedMethod,
    teacher: BuiltMethod,
    items: Sequence[MultipleChoiceItem],
    taught: Sequence[MultipleChoiceItem],
    answers: Sequence[int],
) -> list[tuple[int, list[float]]]:
    queries = [list(item.query) for item in taught]
    inputs = [[] if llm.predicts_query else query for query in queries]
    targets = [
        [*(query if llm.predicts_query else []), answer]
        for query, answer in zip(queries, answers, strict=True)
    ]
    lengths = [len(target) - 1 for target in targets]
    # A context that several rows share is made once.
    contexts = {item.context: item.demonstrations for item in items}
    context = student.contexts(llm, list(contexts.values()))
    places = {number: place for place, number in enumerate(contexts)}
    owner = [places[item.context] for item in items]
    whole = teacher.contexts(llm, [item.kept_demonstrations() for item in taught])
    starts = bool(llm.prefix) or llm.has_start_token
    firsts = [
        int(not (starts or (context.lengths[own] and whole.lengths[number])))
        for number, own in enumerate(owner)
    ]
    states = [
        _states(llm, of, Rows(owners, inputs, targets, lengths), firsts)
        for of, owners in ((whole, range(len(items))), (context, owner))
    ]
    values: list[float] = []
    for parts in zip(*(of.split(llm.logits_batch_size) for of in states), strict=True):
        logs = [llm.logits(part).log_softmax(-1) for part in parts]
        divergence = kl_div(logs[1], logs[0], reduction="none", log_target=True)
        values += divergence.sum(-1).tolist()
    of_row = iter(values)
    return [
        (first, [next(of_row) for _ in target[first:]])
        for first, target in zip(firsts, targets, strict=True)
    ]


def _states(llm: FrozenLLM, context: Contexts, rows: Rows, firsts: Sequence[int]) -> Tensor:
    """Return the states that predict each row's targets from `firsts` on, (targets, width)."""
    states = llm.states(context, rows)
    longest = states.shape[1]
    used = [
        number * longest + place
        for number, (first, target) in enumerate(zip(firsts, rows.targets, strict=True))
        for place in range(first, len(target))
    ]
    return states.flatten(0, 1)[indices(used, states.device)]
