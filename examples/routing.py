"""One frozen LLM, several saved contexts, and for each query the context that fits it.

A context is made once for each task, and saved. Queries of all tasks then come mixed, without their
task's name: each is routed to the context after which the LLM finds the query likeliest,
log P(query | context), and answered after that one. Printed is, for each task, how many of its
queries found their own context, and how many answers are right after the context that was chosen,
after their own, and after none at all.

By default the rows and the distiller are the pocket world's, which this makes in some minutes:

    snakemake --cores 8 \\
        results/runs/pocket-gpt2/mend/default/class_to_class/finetune/weights.safetensors

With rows of your own, in MetaICL's layout (TASK/TASK_16_SEED_train.jsonl, TASK_16_SEED_test.jsonl):

    python examples/routing.py --distiller FOLDER --rows FOLDER --tasks TASK TASK --seed SEED
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

from mend import Context, ContextMethod, Distiller, UserError, ZeroShot
from mend.evaluation.loglikelihood import Continuation, log_likelihoods
from mend.library.context import joined

DISTILLER = "results/runs/pocket-gpt2/mend/default/class_to_class/finetune"
#: Tasks that the distiller was not trained on.
TASKS = ["mood-inference", "size-people", "place-trees", "action-trees", "food-names"]


def main() -> None:
    """Save a context for each task, route queries to them, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--distiller", default=DISTILLER, help="a folder, or a name on the hub")
    parser.add_argument("--llm", help="its frozen LLM, if it is no longer where it was")
    parser.add_argument("--rows", default="results/data/benchmark/data", help="tasks' rows")
    parser.add_argument("--seed", type=int, default=13, help="which rows: a number in their names")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--queries", type=int, default=50, help="of each task")
    parser.add_argument("--contexts", default="results/contexts", help="where contexts are saved")
    options = parser.parse_args()

    distiller = Distiller.from_pretrained(options.distiller, llm=options.llm)
    sets = [read_rows(options, task, "train") for task in options.tasks]
    pairs = [[(row["input"], row["output"]) for row in rows] for rows in sets]
    for task, context in zip(
        options.tasks, distiller.distill_many(pairs, truncate=True), strict=True
    ):
        context.save_pretrained(Path(options.contexts, task))
    contexts = [
        Context.from_pretrained(Path(options.contexts, task), llm=distiller.llm)
        for task in options.tasks
    ]
    nothing = ZeroShot(distiller.llm, like=distiller).distill(pairs[0])

    print(f"{'task':18} {'own context':>12} {'right: chosen':>14} {'own':>6} {'none':>6}")
    for number, task in enumerate(options.tasks):
        rows = read_rows(options, task, "test")[: options.queries]
        chosen = route(contexts, [row["input"] for row in rows])
        found = [
            mean(chance == number for chance in chosen),
            accuracy(distiller, [contexts[choice] for choice in chosen], rows),
            accuracy(distiller, [contexts[number]] * len(rows), rows),
            accuracy(distiller, [nothing] * len(rows), rows),
        ]
        print("{:18} {:12.0%} {:14.0%} {:6.0%} {:6.0%}".format(task, *found))


def read_rows(options: argparse.Namespace, task: str, split: str) -> list[dict]:
    """Return the rows of a task: input, output and options."""
    path = Path(options.rows, task, f"{task}_16_{options.seed}_{split}.jsonl")
    if not path.is_file():
        raise UserError(f"{path}: no such file; name other rows, or make them (--help says how)")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def route(contexts: list[Context], queries: list[str]) -> list[int]:
    """Return the number of the context after which each query is likeliest."""
    llm = contexts[0].llm
    asked = [
        Continuation(number, [], context.after(query))
        for query in queries
        for number, context in enumerate(contexts)
    ]
    values = [one.total for one in log_likelihoods(llm, joined(contexts, llm), asked)]
    rows = [values[start : start + len(contexts)] for start in range(0, len(values), len(contexts))]
    return [row.index(max(row)) for row in rows]


def accuracy(method: ContextMethod, contexts: list[Context], rows: list[dict]) -> float:
    """Return the share of rows whose likeliest option, after its context, is the right one."""
    queries, options = [row["input"] for row in rows], [row["options"] for row in rows]
    scores = method.score(contexts, queries, options)
    chosen = [names[row.index(max(row))] for names, row in zip(options, scores, strict=True)]
    return mean(name == row["output"] for name, row in zip(chosen, rows, strict=True))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
