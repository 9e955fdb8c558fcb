"""The pocket world, its tokenizer and its pretrained models."""

import csv
import io
import json
from random import Random

import pytest

from mend.pocket import lexicon
from mend.pocket.passages import KIND_SHARES, DocumentMaker
from mend.pocket.rules import RowMaker, Rule, attribute_values
from mend.pocket.universe import PARTITIONS, TASKS, banned_pairs, task_list_csv
from mend.pocket.world import (
    SEEDS,
    SHOTS,
    TASK_LIST,
    TEST_ROWS,
    corpus_texts,
    pool_files,
    task_files,
    write_world,
)

BY_NAME = {task.name: task for task in TASKS}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pocket") / "world"
    write_world(folder, documents=100)
    return folder


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_same_arguments_give_the_same_bytes_and_another_seed_other_rows(world, tmp_path):
    write_world(tmp_path / "again", documents=100)
    files = sorted(p.relative_to(world) for p in world.rglob("*.jsonl"))
    again = sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*.jsonl"))
    assert files == again
    assert files
    for name in files:
        assert (world / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert list(corpus_texts(0, 5)) != list(corpus_texts(1, 5))
    assert task_files(TASKS[0], seed=0) != task_files(TASKS[0], seed=1)


def test_layout_is_that_of_metaicl(world):
    assert sorted(p.name for p in (world / "data").iterdir()) == sorted(BY_NAME)
    for name, task in BY_NAME.items():
        expected = {
            f"{name}_{SHOTS}_{s}_{split}" for s in SEEDS for split in ("train", "dev", "test")
        }
        if task.role == "train":
            expected.add(f"{name}_16384_100_train")
        assert {p.stem for p in (world / "data" / name).iterdir()} == expected
        tests = [read_rows(world / "data" / name / f"{name}_16_{s}_test.jsonl") for s in SEEDS]
        assert len(tests[0]) == TEST_ROWS
        assert all(rows == tests[0] for rows in tests)
        for seed in SEEDS:
            assert len(read_rows(world / "data" / name / f"{name}_16_{seed}_train.jsonl")) == SHOTS
    assert len(read_rows(world / "corpus" / "part-00000.jsonl")) == 100


def test_every_row_names_its_task_and_has_its_output_among_distinct_options(world):
    for path in (world / "data").rglob("*.jsonl"):
        for row in read_rows(path):
            assert set(row) == {"task", "input", "output", "options"}
            assert row["task"] == path.parent.name
            assert row["output"] in row["options"]
            assert len(set(row["options"])) == len(row["options"]) >= 2


def test_a_pool_adds_files_to_test_tasks_and_changes_no_other(world, tmp_path):
    write_world(tmp_path / "pool", documents=100, pool=24)
    added = set()
    for path in (tmp_path / "pool").rglob("*.jsonl"):
        name = path.relative_to(tmp_path / "pool")
        if (world / name).exists():
            assert (world / name).read_bytes() == path.read_bytes()
        else:
            added.add(path.stem)
            assert len(read_rows(path)) == 24
    tests = [name for name, task in BY_NAME.items() if task.role == "test"]
    assert added == {f"{name}_24_{seed}_train" for name in tests for seed in SEEDS}


TEST_TASKS = [task for task in TASKS if task.role == "test"]


@pytest.mark.parametrize("task", TEST_TASKS, ids=lambda task: task.name)
def test_a_pool_begins_with_the_train_rows_and_asks_nothing_that_is_tested(task):
    files = task_files(task)
    held_out = {r.input for name, rows in files.items() if name[-5:] != "train" for r in rows}
    pools = pool_files(task, 0, 256, files)
    assert list(pools) == [f"{task.name}_256_{seed}_train" for seed in SEEDS]
    assert len({tuple(rows) for rows in pools.values()}) == len(SEEDS)
    for seed, rows in zip(SEEDS, pools.values(), strict=True):
        inputs = [row.input for row in rows]
        assert len(inputs) == len(set(inputs)) == 256
        assert not held_out & set(inputs)
        train = dict.fromkeys(r.input for r in files[f"{task.name}_16_{seed}_train"])
        train = [input for input in train if input not in held_out]
        assert len(train) > 12
        assert inputs[: len(train)] == train
        if task.type == "classification":
            outputs = [row.output for row in rows]
            counts = [outputs.count(label) for label in task.rule.labels]
            assert max(counts) - min(counts) <= 2
    assert pool_files(task, 1, 256, files) != pools


def test_a_pool_has_as_many_rows_as_there_are():
    task = BY_NAME["size-paraphrase"]
    files = task_files(task)
    # 6 openers, and 15 words with 4 of their value and 10 of others; 277 inputs are dev or test.
    everything = 6 * 15 * 14 - len(
        {r.input for name, rows in files.items() if name[-5:] != "train" for r in rows}
    )
    found = [row.input for row in pool_files(task, 0, 5000, files)["size-paraphrase_5000_13_train"]]
    assert len(found) == len(set(found))
    assert 0.99 * everything < len(found) <= everything


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_splits_are_disjoint_and_training_rows_balanced(task):
    files = task_files(task)
    test = set(files[f"{task.name}_16_13_test"])
    train = {row for s in SEEDS for row in files[f"{task.name}_16_{s}_train"]}
    dev = {row for s in SEEDS for row in files[f"{task.name}_16_{s}_dev"]}
    meta_train = files.get(f"{task.name}_16384_100_train", [])
    assert not (test & train)
    assert not (test & dev)
    assert not (train & dev)
    assert not set(meta_train) & (test | train | dev)
    assert len(set(meta_train)) == len(meta_train)
    assert bool(meta_train) == (task.role == "train")
    if task.type == "classification":
        for seed in SEEDS:
            outputs = [row.output for row in files[f"{task.name}_16_{seed}_train"]]
            counts = [outputs.count(label) for label in task.rule.labels]
            assert max(counts) - min(counts) <= 1


def test_checked_in_task_list_is_the_generated_one():
    assert TASK_LIST.read_text(encoding="utf-8") == task_list_csv()


def test_partitions_have_both_parts_and_no_test_task_is_in_any_meta_train():
    rows = list(csv.DictReader(io.StringIO(task_list_csv())))
    assert len(rows) >= 28
    trained = {row["task"] for row in rows for p in PARTITIONS if row[p] == "train"}
    tested = {row["task"] for row in rows for p in PARTITIONS if row[p] == "test"}
    assert trained | tested == set(BY_NAME)
    assert not trained & tested
    for partition in PARTITIONS:
        assert sum(row[partition] == "train" for row in rows) >= 10
        assert sum(row[partition] == "test" for row in rows) >= 3
    kinds = {p: {BY_NAME[r["task"]].rule.kind for r in rows if r[p] == "train"} for p in PARTITIONS}
    assert "nli" not in kinds["non_nli_to_nli"]
    assert "paraphrase" not in kinds["non_paraphrase_to_paraphrase"]
    assert kinds["non_class_to_class"] == kinds["qa_to_qa"] == {"pick", "mate", "name", "look-up"}
    assert kinds["non_qa_to_qa"] == kinds["class_to_class"] == {"label", "nli", "paraphrase"}


def test_what_test_tasks_ask_for_is_in_no_meta_train_task_and_no_list():
    banned = banned_pairs()
    assert ("label", "mood", "happy") in banned
    assert ("mate", "colour", "") in banned
    for task in TASKS:
        assert bool(banned & task.rule.pairs()) == (task.role == "test"), task.name
    maker = DocumentMaker(Random(5))
    for kind in KIND_SHARES:
        for _ in range(500):
            assert not banned & maker.allowed_rule(kind)[0].pairs()


def test_lists_as_written_never_call_a_word_by_a_banned_label():
    """Reads the texts themselves, not the rules they were sampled by."""
    banned = {(a, answer) for kind, a, answer in banned_pairs() if kind == "label"}
    seen = set()
    maker = DocumentMaker(Random(7), list_share=1.0, wrong_answers=0.2)
    for document in (maker.document() for _ in range(1500)):
        if document.kind in ("label", "glossary", "name"):
            for answer in document.answers:
                attribute, _ = lexicon.VALUE_OF_WORD[document.words[answer - 1]]
                seen.add((attribute, document.words[answer]))
    assert len(seen) > 150
    assert not seen & banned


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_lists_have_as_many_wrong_labels_as_asked(share):
    maker = DocumentMaker(Random(1), wrong_answers=share)
    wrong = rows = 0
    for _ in range(200):
        document = maker.list("glossary")
        labels_of = {}
        for index in document.answers:
            value = lexicon.VALUE_OF_WORD[document.words[index - 1]]
            labels_of.setdefault(value, []).append(document.words[index])
        for labels in labels_of.values():
            rows += len(labels)
            wrong += len(labels) - max(labels.count(label) for label in labels)
    assert wrong / rows == pytest.approx(share, abs=0.08)


def test_every_label_word_is_an_answer_somewhere_in_the_corpus():
    maker = DocumentMaker(Random(3), list_share=1.0)
    answers = {d.words[i] for d in (maker.document() for _ in range(1500)) for i in d.answers}
    assert {label for task in TASKS for label in task.rule.labels} <= answers


def test_rows_say_what_their_rules_mean():
    mood = attribute_values("mood")
    for _ in range(50):
        row = RowMaker(Rule("label", mood, ("x", "y", "z")), Random(_)).row()
        _attribute, value = lexicon.VALUE_OF_WORD[row.input[-1]]
        assert row.output == dict(zip(("happy", "sad", "angry"), "xyz", strict=True))[value]
        row = RowMaker(Rule("paraphrase", mood, ("y", "n")), Random(_)).row()
        first, second = (lexicon.VALUE_OF_WORD[word] for word in row.input[1:])
        assert (row.output == "y") == (first == second)
        row = RowMaker(Rule("nli", mood, ("s", "o", "u")), Random(_)).row()
        first, second = (lexicon.VALUE_OF_WORD[word] for word in row.input[1:])
        relation = "s" if first == second else "o" if first[0] == second[0] else "u"
        assert row.output == relation
        row = RowMaker(Rule("pick", mood), Random(_)).row()
        assert [w for w in row.input[1:] if lexicon.VALUE_OF_WORD[w][0] == "mood"] == [row.output]
        row = RowMaker(Rule("mate", mood), Random(_)).row()
        same = lexicon.VALUE_OF_WORD[row.input[-1]]
        assert [w for w in row.options if lexicon.VALUE_OF_WORD[w] == same] == [row.output]
        row = RowMaker(Rule("look-up", mood), Random(_)).row()
        assert row.output == row.input[row.input.index(row.input[-1]) + 1]


def test_words_are_distinct_and_all_have_a_token(world):
    from mend.pocket.tokenizer import build_tokenizer

    words = lexicon.vocabulary()
    roles = [w for values in lexicon.ATTRIBUTES.values() for v in values.values() for w in v]
    roles += [value for values in lexicon.ATTRIBUTES.values() for value in values]
    roles += [*lexicon.ARBITRARY_LABELS, *(w for group in lexicon.OPENERS.values() for w in group)]
    assert len(set(roles)) == len(roles)
    tokenizer = build_tokenizer()
    assert len(tokenizer) == len(words) + 3
    for path in world.rglob("*.jsonl"):
        for row in read_rows(path)[:40]:
            text = row.get("text") or " ".join([row["input"], row["output"], *row["options"]])
            identifiers = tokenizer(text)["input_ids"]
            assert len(identifiers) == len(text.split())
            assert tokenizer.unk_token_id not in identifiers
