"""Classification with many demonstrations: MEND beside vanilla ICL and no demonstrations at all.

For each K, every method makes its context of the same demonstrations, once, and the frozen LLM
chooses each query's label after it. Printed are the accuracy, and how many positions (tokens or
vectors) the LLM reads before every query. Demonstrations that the distiller cannot read at once are
distilled in groups, whose vectors are joined; vanilla ICL leaves out what its window cannot hold.

By default the rows and the distiller are the pocket world's, which this makes (some minutes):

    snakemake --cores 8 results/runs/pocket-gpt2/mend/default/class_to_class/finetune/weights.safetensors

With rows, a distiller and an LLM of your own:

    python examples/classification.py --distiller FOLDER --llm FOLDER --train train.jsonl --test test.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mend import Distiller, UserError, VanillaICL, ZeroShot

DISTILLER = "results/runs/pocket-gpt2/mend/default/class_to_class/finetune"
ROWS = "results/data/benchmark/data/mood-names/mood-names_{}.jsonl"


def read_rows(path: str) -> list[tuple[str, str]]:
    """Return the (input, output) pairs of a file of JSON lines."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; name another, or make it (--help says how)")
    rows = map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())
    return [(row["input"], row["output"]) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--distiller", default=DISTILLER, help="a folder, or a name on the hub")
    parser.add_argument("--llm", help="its frozen LLM, if it is no longer where it was")
    parser.add_argument("--train", default=ROWS.format("128_100_train"), help="demonstrations")
    parser.add_argument("--test", default=ROWS.format("16_100_test"), help="queries")
    parser.add_argument("--shots", type=int, nargs="+", default=[4, 16, 64])
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
    print(f"{len(queries)} queries, {len(labels)} labels: {', '.join(labels)}\n")
    print(f"{'method':12} {'K':>4} {'positions read':>15} {'accuracy':>9}")
    for shots in options.shots:
        for method in methods:
            group = options.group if isinstance(method, Distiller) else None
            context = method.distill(train[:shots], truncate=True, group=group)
            scores = method.score(context, queries, labels)
            chosen = [labels[row.index(max(row))] for row in scores]
            right = sum(map(str.__eq__, chosen, answers)) / len(answers)
            print(f"{method.display_name:12} {shots:4} {len(context):15} {right:9.1%}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
