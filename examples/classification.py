"""Classification with many demonstrations: MEND beside vanilla ICL and no demonstrations at all.

For each K, every method makes its contexts of the same sets of demonstrations, once, and the frozen
LLM chooses each query's label after them. Printed are the accuracy, its mean over the sets and its
range, and how many positions (tokens or vectors) the LLM reads before every query. Demonstrations
are distilled in groups, whose vectors are joined; vanilla ICL leaves out what its window cannot
hold.

By default the rows and the distiller are the pocket world's: what people and animals do, labelled
with trees, so that nothing but the demonstrations says what a label means. This makes both, in some
minutes:

    snakemake --cores 8 \\
        results/runs/pocket-gpt2/mend/default/class_to_class/finetune/weights.safetensors

With rows, a distiller and an LLM of your own:

    python examples/classification.py --distiller FOLDER --llm FOLDER \\
        --train train.jsonl --test test.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from statistics import mean

from mend import Context, ContextMethod, Distiller, UserError, VanillaICL, ZeroShot

DISTILLER = "results/runs/pocket-gpt2/mend/default/class_to_class/finetune"
ROWS = "results/data/benchmark/data/action-trees/action-trees_{}.jsonl"


def read_rows(path: str) -> list[tuple[str, str]]:
    """Return the (input, output) pairs of a file of JSON lines."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; name another, or make it (--help says how)")
    rows = map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())
    return [(row["input"], row["output"]) for row in rows]


def main() -> None:
    """Compare the methods, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--distiller", default=DISTILLER, help="a folder, or a name on the hub")
    parser.add_argument("--llm", help="its frozen LLM, if it is no longer where it was")
    parser.add_argument("--train", default=ROWS.format("128_100_train"), help="demonstrations")
    parser.add_argument("--test", default=ROWS.format("16_100_test"), help="queries")
    parser.add_argument("--shots", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--sets", type=int, default=10, help="sets of demonstrations for each K")
    parser.add_argument("--group", type=int, default=16, help="demonstrations distilled at a time")
    options = parser.parse_args()

    train, test = read_rows(options.train), read_rows(options.test)
    queries, answers = [row[0] for row in test], [row[1] for row in test]
    labels = sorted({label for _, label in train})
    distiller = Distiller.from_pretrained(options.distiller, llm=options.llm)
    methods = [
        ZeroShot(distiller.llm, like=distiller),
        VanillaICL(distiller.llm, like=distiller),
        distiller,
    ]
    draw = random.Random(0)
    print(f"{len(queries)} queries, {len(labels)} labels: {', '.join(labels)}\n")
    print(f"{'method':12} {'K':>4} {'positions read':>15} {'accuracy':>9}  lowest to highest")
    for shots in options.shots:
        sets = [draw.sample(train, shots) for _ in range(options.sets)]
        for method in methods:
            group = options.group if isinstance(method, Distiller) else None
            contexts = method.distill_many(sets, truncate=True, group=group)
            found = [accuracy(method, context, queries, labels, answers) for context in contexts]
            print(
                f"{method.display_name:12} {shots:4} {mean(map(len, contexts)):15.0f} "
                f"{mean(found):9.1%}  {min(found):.0%} to {max(found):.0%}"
            )


def accuracy(
    method: ContextMethod,
    context: Context,
    queries: list[str],
    labels: list[str],
    answers: list[str],
) -> float:
    """Return the share of queries whose likeliest label is the right one."""
    scores = method.score(context, queries, labels)
    chosen = [labels[row.index(max(row))] for row in scores]
    return mean(label == answer for label, answer in zip(chosen, answers, strict=True))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
