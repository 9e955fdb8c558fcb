"""The tasks of the pocket benchmark, their rules and their parts in the seven partitions.

As in MetaICL, a partition names meta-train and meta-test tasks, `classification` includes
inference and paraphrase, and the low-resource meta-test tasks are a mixture. Tasks of any
partition's meta-test are in no meta-train, and what their rules teach (`Rule.pairs`) is banned from
the corpus and from all meta-train tasks: see `banned_pairs`.

There are two lists of meta-test tasks: one to develop with (`tasks.csv`), and a sealed one
(`sealed.csv`), which is for a single run when all settings are fixed.
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
INFERENCE_ROWS, PARAPHRASE_ROWS = 480, 240
YES, TRUE, SAME = ("yes", "no", "maybe"), ("true", "false", "unknown"), ("same", "opposite")


@dataclass(frozen=True)
class PocketTask:
    """A task: its name, its rule, its part, and the size of its meta-training file.

    Attributes:
        name: the task's name.
        rule: what decides its outputs.
        role: `train`, `test` or `sealed`, in every partition that has the task.
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
    """Read a subject: an attribute, or an attribute and some of its values (`size:big,thin`)."""
    attribute, _, names = subject.partition(":")
    values = tuple((attribute, name) for name in names.split(",") if name)
    return Rule(kind, values or attribute_values(attribute), tuple(labels))


def _train(name: str, kind: str, subject: str, labels=(), rows=HIGH_RESOURCE_ROWS) -> PocketTask:
    return PocketTask(name, _rule(kind, subject, labels), "train", rows)


def _test(name: str, kind: str, subject: str, labels=(), **parts) -> PocketTask:
    return PocketTask(name, _rule(kind, subject, labels), "test", **parts)


def _sealed(name: str, kind: str, subject: str, labels=(), **parts) -> PocketTask:
    return PocketTask(name, _rule(kind, subject, labels), "sealed", **parts)


LOW, CLASS = {"low_resource_test": True}, {"class_test": True}
BOTH = LOW | CLASS

TASKS: tuple[PocketTask, ...] = (
    # Labels: natural ones (the values' own names) and arbitrary ones.
    _train("animal-names", "label", "animal", values_of("animal")),
    _train("colour-names", "label", "colour", values_of("colour")),
    _train("action-names", "label", "action", values_of("action")),
    _train("mood-trees", "label", "mood", TREES[0:4]),
    _train("mood-people", "label", "mood:happy,sad", PEOPLE[0:2]),
    _train("food-trees", "label", "food", TREES[4:8]),
    _train("place-people", "label", "place:water,town,wild", PEOPLE[2:5]),
    _train("size-trees", "label", "size", TREES[8:12]),
    _train("colour-people", "label", "colour", PEOPLE[8:12]),
    _train("animal-people", "label", "animal:bird,fish,insect", PEOPLE[5:8], LOW_RESOURCE_ROWS),
    _train("colour-trees", "label", "colour:red,blue", TREES[0:2], LOW_RESOURCE_ROWS),
    _train("action-people", "label", "action", PEOPLE[4:8], LOW_RESOURCE_ROWS),
    _test("mood-names", "label", "mood", values_of("mood"), **CLASS),
    _test("food-names", "label", "food", values_of("food"), **BOTH),
    _test("size-people", "label", "size", ("rose", "jack", "ned", "ann"), **CLASS),
    _test("animal-trees", "label", "animal", ("oak", "elm", "birch", "spruce"), **CLASS),
    _test("place-trees", "label", "place:house,town,wild", ("maple", "hazel", "cedar"), **BOTH),
    _test("action-trees", "label", "action:moves,works", ("poplar", "larch"), **BOTH),
    _sealed("place-names", "label", "place", values_of("place"), **CLASS),
    _sealed("size-names", "label", "size:big,small,thin", ("big", "small", "thin"), **BOTH),
    _sealed("mood-tribes", "label", "mood", ("mary", "pine", "will", "rowan"), **CLASS),
    _sealed("food-tribes", "label", "food", ("sam", "alder", "kate", "cedar"), **BOTH),
    _sealed("colour-woods", "label", "colour:green,yellow,red", ("elm", "pine", "larch"), **CLASS),
    # Inference.
    _train("size-inference", "nli", "size", YES, INFERENCE_ROWS),
    _train("colour-inference", "nli", "colour", TRUE, INFERENCE_ROWS),
    _train("animal-inference", "nli", "animal", (*SAME, "unrelated"), INFERENCE_ROWS),
    _train("action-inference", "nli", "action", ("kate", "luke", "bill"), LOW_RESOURCE_ROWS),
    _test("mood-inference", "nli", "mood", YES, **CLASS),
    _test("food-inference", "nli", "food", TRUE, **LOW),
    _test("place-inference", "nli", "place", ("rowan", "alder", "spruce"), **BOTH),
    _sealed("action-judgement", "nli", "action", YES, **CLASS),
    _sealed("size-judgement", "nli", "size", ("tom", "hazel", "mary"), **BOTH),
    # Paraphrase.
    _train("food-paraphrase", "paraphrase", "food", YES[:2], PARAPHRASE_ROWS),
    _train("place-paraphrase", "paraphrase", "place", TRUE[:2], PARAPHRASE_ROWS),
    _train("action-paraphrase", "paraphrase", "action", SAME, PARAPHRASE_ROWS),
    _train("mood-paraphrase", "paraphrase", "mood", ("cedar", "pine"), LOW_RESOURCE_ROWS),
    _test("colour-paraphrase", "paraphrase", "colour", SAME, **CLASS),
    _test("size-paraphrase", "paraphrase", "size", TRUE[:2], **LOW),
    _test("animal-paraphrase", "paraphrase", "animal", ("will", "ann"), **BOTH),
    _sealed("mood-sameness", "paraphrase", "mood", SAME, **CLASS),
    _sealed("food-sameness", "paraphrase", "food", ("sue", "maple"), **BOTH),
    # Question answering: the options are in each row.
    _train("mood-pick", "pick", "mood"),
    _train("size-pick", "pick", "size:big,small"),
    _train("colour-pick", "pick", "colour"),
    _train("water-pick", "pick", "place:water"),
    _train("speaks-pick", "pick", "action:speaks", rows=LOW_RESOURCE_ROWS),
    _train("fruit-pick", "pick", "food:fruit,drink", rows=LOW_RESOURCE_ROWS),
    _train("food-look-up", "look-up", "food"),
    _train("animal-look-up", "look-up", "animal"),
    _test("food-pick", "pick", "food:bread,meat"),
    _test("beast-pick", "pick", "animal:beast,bird", **LOW),
    _test("action-pick", "pick", "action:moves,works", **LOW),
    _test("mood-look-up", "look-up", "mood"),
    _sealed("thin-pick", "pick", "size:tall,thin", **LOW),
    _sealed("place-pick", "pick", "place:house,town"),
    _sealed("colour-look-up", "look-up", "colour"),
)
TEST_ROLES = ("test", "sealed")


def banned_pairs() -> frozenset[tuple[str, str, str]]:
    """Return what only meta-test tasks, sealed ones too, may ask for.

    Raises ValueError if a meta-train task does so as well, or a sealed task what one of the others
    asks for.
    """
    by_role = {
        role: [(task, task.rule.pairs()) for task in TASKS if task.role == role]
        for role in ("train", *TEST_ROLES)
    }
    banned: frozenset[tuple[str, str, str]] = frozenset()
    for role in ("sealed", "test", "train"):
        for task, pairs in by_role[role]:
            if banned & pairs:
                raise ValueError(f"task {task.name} teaches {sorted(banned & pairs)} of another")
        if role != "train":
            banned = banned.union(*(pairs for _, pairs in by_role[role]))
    return banned


def role(task: PocketTask, partition: str, test_role: str = "test") -> str:
    """Return '', 'train' or 'test': the part of a task in a partition.

    test_role: the role of the tasks that are its meta-test, `test` or `sealed`.
    """
    kind, test = task.rule.kind, task.role in TEST_ROLES
    question = kind in QA_KINDS
    if test and task.role != test_role:
        return ""
    belongs = {
        "class_to_class": task.class_test if test else not question,
        "non_class_to_class": task.class_test if test else question,
        "non_nli_to_nli": (kind == "nli") == test,
        "non_qa_to_qa": question == test,
        "qa_to_qa": question,
        "hr_to_lr": task.low_resource_test if test else task.rows > LOW_RESOURCE_ROWS,
        "non_paraphrase_to_paraphrase": (kind == "paraphrase") == test,
    }
    if not belongs[partition]:
        return ""
    return "test" if test else "train"


def task_list_csv(test_role: str = "test") -> str:
    """Return a task list as CSV text, in the columns of the project's list of MetaICL's tasks."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "type", "options", *PARTITIONS])
    for task in TASKS:
        roles = [role(task, partition, test_role) for partition in PARTITIONS]
        options = json.dumps(sorted(task.rule.labels)) if task.rule.labels else ""
        if any(roles):
            writer.writerow([task.name, task.type, options, *roles])
    return text.getvalue()
