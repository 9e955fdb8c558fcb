"""The tasks of the pocket benchmark, their rules and their parts in the seven partitions.

As in MetaICL, a partition names meta-train and meta-test tasks, `classification` includes
inference and paraphrase, and the low-resource meta-test tasks are a mixture. Tasks of any
partition's meta-test are in no meta-train, and what their rules teach (`Rule.pairs`) is banned from
the corpus and from all meta-train tasks: see `banned_pairs`.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass

from mend.configuration.choices import PARTITIONS
from mend.pocket.lexicon import PEOPLE, TREES, values_of
from mend.pocket.rules import QA_KINDS, Rule, attribute_values

HIGH_RESOURCE_ROWS, LOW_RESOURCE_ROWS = 2000, 100
# Relations have fewer distinct rows.
INFERENCE_ROWS, PARAPHRASE_ROWS = 600, 320
YES, TRUE, SAME = ("yes", "no", "maybe"), ("true", "false", "unknown"), ("same", "opposite")


@dataclass(frozen=True)
class PocketTask:
    """A task: its name, its rule, its part, and the size of its meta-training file.

    Attributes:
        name: the task's name.
        rule: what decides its outputs.
        role: `train` or `test`, in every partition that has the task.
        rows: number of meta-training rows (0 for meta-test tasks).
        low_resource_test: whether `hr_to_lr` tests on it.
        class_test: whether `class_to_class` and `non_class_to_class` test on it.
    """

    name: str
    rule: Rule
    role: str
    rows: int = 0
    low_resource_test: bool = False
    class_test: bool = False

    @property
    def type(self) -> str:
        """`multi-choice` if the options are in each row, else `classification`."""
        return "multi-choice" if self.rule.kind in QA_KINDS else "classification"


def _rule(kind: str, subject: str, labels: tuple[str, ...] = ()) -> Rule:
    attribute, _, value = subject.partition(":")
    values = ((attribute, value),) if value else attribute_values(attribute)
    return Rule(kind, values, labels)


def _train(name: str, kind: str, subject: str, labels=(), rows=HIGH_RESOURCE_ROWS) -> PocketTask:
    return PocketTask(name, _rule(kind, subject, tuple(labels)), "train", rows)


def _test(name: str, kind: str, subject: str, labels=(), **parts) -> PocketTask:
    return PocketTask(name, _rule(kind, subject, tuple(labels)), "test", **parts)


LOW, CLASS = {"low_resource_test": True}, {"class_test": True}
BOTH = LOW | CLASS

TASKS: tuple[PocketTask, ...] = (
    # Labels: natural ones (the values' own names) and arbitrary ones.
    _train("animal-names", "label", "animal", values_of("animal")),
    _train("colour-names", "label", "colour", values_of("colour")),
    _train("size-names", "label", "size", values_of("size")),
    _train("action-names", "label", "action", values_of("action")),
    _train("mood-trees", "label", "mood", TREES[0:3]),
    _train("mood-people", "label", "mood", PEOPLE[0:3]),
    _train("food-trees", "label", "food", TREES[3:6]),
    _train("place-people", "label", "place", PEOPLE[3:6]),
    _train("size-trees", "label", "size", TREES[6:9]),
    _train("animal-people", "label", "animal", PEOPLE[6:9], rows=LOW_RESOURCE_ROWS),
    _train("colour-trees", "label", "colour", TREES[9:12], rows=LOW_RESOURCE_ROWS),
    _train("action-people", "label", "action", PEOPLE[9:12], rows=LOW_RESOURCE_ROWS),
    _test("mood-names", "label", "mood", values_of("mood"), **CLASS),
    _test("food-names", "label", "food", values_of("food"), **BOTH),
    _test("size-people", "label", "size", ("rose", "jack", "ned"), **CLASS),
    _test("animal-trees", "label", "animal", ("oak", "elm", "birch"), **CLASS),
    _test("place-trees", "label", "place", ("maple", "hazel", "cedar"), **CLASS),
    _test("action-trees", "label", "action", ("willow", "larch", "pine"), **BOTH),
    _test("colour-people", "label", "colour", ("tom", "mary", "sam"), **LOW),
    # Inference.
    _train("size-inference", "nli", "size", YES, rows=INFERENCE_ROWS),
    _train("colour-inference", "nli", "colour", TRUE, rows=INFERENCE_ROWS),
    _train("animal-inference", "nli", "animal", (*SAME, "unrelated"), rows=INFERENCE_ROWS),
    _train("action-inference", "nli", "action", ("kate", "luke", "bill"), rows=LOW_RESOURCE_ROWS),
    _test("mood-inference", "nli", "mood", YES, **CLASS),
    _test("food-inference", "nli", "food", TRUE, **LOW),
    _test("place-inference", "nli", "place", ("rowan", "alder", "spruce"), **BOTH),
    # Paraphrase.
    _train("food-paraphrase", "paraphrase", "food", YES[:2], rows=PARAPHRASE_ROWS),
    _train("place-paraphrase", "paraphrase", "place", TRUE[:2], rows=PARAPHRASE_ROWS),
    _train("action-paraphrase", "paraphrase", "action", SAME, rows=PARAPHRASE_ROWS),
    _train("mood-paraphrase", "paraphrase", "mood", ("cedar", "pine"), rows=LOW_RESOURCE_ROWS),
    _test("colour-paraphrase", "paraphrase", "colour", SAME, **CLASS),
    _test("size-paraphrase", "paraphrase", "size", TRUE[:2], **LOW),
    _test("animal-paraphrase", "paraphrase", "animal", ("will", "ann"), **CLASS),
    # Question answering: the options are in each row.
    _train("mood-pick", "pick", "mood"),
    _train("size-pick", "pick", "size"),
    _train("colour-pick", "pick", "colour"),
    _train("water-pick", "pick", "place:water"),
    _train("speaks-pick", "pick", "action:speaks", rows=LOW_RESOURCE_ROWS),
    _train("mood-mate", "mate", "mood"),
    _train("food-mate", "mate", "food"),
    _train("size-mate", "mate", "size", rows=LOW_RESOURCE_ROWS),
    _train("place-mate", "mate", "place"),
    _train("action-mate", "mate", "action"),
    _train("size-meaning", "name", "size"),
    _train("animal-meaning", "name", "animal", rows=LOW_RESOURCE_ROWS),
    _train("food-look-up", "look-up", "food"),
    _train("animal-look-up", "look-up", "animal"),
    _test("food-pick", "pick", "food"),
    _test("beast-pick", "pick", "animal:beast", **LOW),
    _test("colour-mate", "mate", "colour", **LOW),
    _test("animal-mate", "mate", "animal"),
    _test("place-meaning", "name", "place"),
)


def banned_pairs() -> frozenset[tuple[str, str, str]]:
    """Return what only meta-test tasks may ask for; raises ValueError if a train task does too."""
    banned = frozenset(p for task in TASKS if task.role == "test" for p in task.rule.pairs())
    for task in TASKS:
        clash = banned & task.rule.pairs()
        if task.role == "train" and clash:
            raise ValueError(f"meta-train task {task.name} teaches {sorted(clash)} of a test task")
    return banned


def role(task: PocketTask, partition: str) -> str:
    """Return '', 'train' or 'test': the part of a task in a partition."""
    kind, test = task.rule.kind, task.role == "test"
    question = kind in QA_KINDS
    belongs = {
        "class_to_class": task.class_test if test else not question,
        "non_class_to_class": task.class_test if test else question,
        "non_nli_to_nli": (kind == "nli") == test,
        "non_qa_to_qa": question == test,
        "qa_to_qa": question,
        "hr_to_lr": task.low_resource_test if test else task.rows > LOW_RESOURCE_ROWS,
        "non_paraphrase_to_paraphrase": (kind == "paraphrase") == test,
    }
    return task.role if belongs[partition] else ""


def task_list_csv() -> str:
    """Return the task list as CSV text, in the columns of the project's list of MetaICL's tasks."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "type", "options", *PARTITIONS])
    for task in TASKS:
        options = json.dumps(sorted(task.rule.labels)) if task.rule.labels else ""
        writer.writerow([task.name, task.type, options, *(role(task, p) for p in PARTITIONS)])
    return text.getvalue()
