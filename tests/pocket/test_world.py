"""The pocket world, its tokenizer and its pretrained models."""

import csv
import io
import json
import os
from dataclasses import replace
from random import Random

import pytest
import yaml
from helpers.configurations import ROOT

from mend.pocket import lexicon
from mend.pocket.passages import KIND_SHARES, DocumentMaker
from mend.pocket.rules import RowMaker, Rule, attribute_values, perhaps_wrong
from mend.pocket.text import WINDOW, Mixture, training_text
from mend.pocket.tokenizer import build_tokenizer, pieces
from mend.pocket.universe import PARTITIONS, TASKS, TEST_ROLES, banned_pairs, task_list_csv
from mend.pocket.world import (
    SEALED_LIST,
    SEEDS,
    SHOTS,
    TASK_LIST,
    TEST_ROWS,
    WRONG_DEMONSTRATIONS,
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


def right_answer(task, row):
    """What the task's rule says of a row, by the words alone."""
    rule, words = task.rule, row.input
    values = [lexicon.VALUE_OF_WORD.get(word) for word in words]
    if rule.kind == "label":
        return dict(zip(rule.values, rule.labels, strict=True))[values[-1]]
    if rule.kind == "pick":
        return next(w for w in words if lexicon.VALUE_OF_WORD.get(w) in rule.values)
    if rule.kind == "look-up":
        return words[words.index(words[-1]) + 1]
    first, second = values[1:]
    relation = 0 if first == second else 1 if first[0] == second[0] else 2
    return rule.labels[relation]


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
    tests = [name for name, task in BY_NAME.items() if task.role in TEST_ROLES]
    assert added == {f"{name}_24_{seed}_train" for name in tests for seed in SEEDS}


TEST_TASKS = [task for task in TASKS if task.role in TEST_ROLES]


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
            outputs = [right_answer(task, row) for row in rows]
            counts = [outputs.count(label) for label in task.rule.labels]
            assert max(counts) - min(counts) <= 2
    assert pool_files(task, 1, 256, files) != pools


def test_a_pool_has_as_many_rows_as_there_are():
    task = BY_NAME["size-paraphrase"]
    files = task_files(task)
    # 4 openers, 20 words, and 19 others of the attribute.
    everything = 4 * 20 * 19 - len(
        {r.input for name, rows in files.items() if name[-5:] != "train" for r in rows}
    )
    found = [row.input for row in pool_files(task, 0, 5000, files)["size-paraphrase_5000_13_train"]]
    assert len(found) == len(set(found))
    assert 0.99 * everything < len(found) <= everything


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_splits_are_disjoint_and_training_rows_balanced(task):
    files = task_files(task)
    asked = {name: [(r.input, r.options) for r in rows] for name, rows in files.items()}
    test = set(asked[f"{task.name}_16_13_test"])
    train = {row for s in SEEDS for row in asked[f"{task.name}_16_{s}_train"]}
    dev = {row for s in SEEDS for row in asked[f"{task.name}_16_{s}_dev"]}
    meta_train = asked.get(f"{task.name}_16384_100_train", [])
    assert not (test & train)
    assert not (test & dev)
    assert not (train & dev)
    assert not set(meta_train) & (test | train | dev)
    assert len(set(meta_train)) == len(meta_train)
    assert bool(meta_train) == (task.role == "train")
    if task.type == "classification":
        for seed in SEEDS:
            rows = files[f"{task.name}_16_{seed}_train"]
            outputs = [right_answer(task, row) for row in rows]
            counts = [outputs.count(label) for label in task.rule.labels]
            assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_dev_and_test_rows_are_right_and_a_share_of_the_training_rows_is_not(task):
    wrong = {"train": 0, "dev": 0, "test": 0}
    number = 0
    for name, rows in task_files(task).items():
        split = name.rpartition("_")[2]
        wrong[split] += sum(row.output != right_answer(task, row) for row in rows)
        number += len(rows) * (split == "train")
    assert wrong["dev"] == wrong["test"] == 0
    deviation = (WRONG_DEMONSTRATIONS * (1 - WRONG_DEMONSTRATIONS) / number) ** 0.5
    assert abs(wrong["train"] / number - WRONG_DEMONSTRATIONS) < 4 * deviation


def test_checked_in_task_lists_are_the_generated_ones():
    assert TASK_LIST.read_text(encoding="utf-8") == task_list_csv()
    assert SEALED_LIST.read_text(encoding="utf-8") == task_list_csv("sealed")


@pytest.mark.parametrize("test_role", TEST_ROLES)
def test_partitions_have_both_parts_and_no_test_task_is_in_any_meta_train(test_role):
    rows = list(csv.DictReader(io.StringIO(task_list_csv(test_role))))
    assert len(rows) >= 28
    trained = {row["task"] for row in rows for p in PARTITIONS if row[p] == "train"}
    tested = {row["task"] for row in rows for p in PARTITIONS if row[p] == "test"}
    assert {BY_NAME[name].role for name in trained} == {"train"}
    assert tested == {name for name, task in BY_NAME.items() if task.role == test_role}
    for partition in PARTITIONS:
        assert sum(row[partition] == "train" for row in rows) >= 8
        assert sum(row[partition] == "test" for row in rows) >= 2
    kinds = {p: {BY_NAME[r["task"]].rule.kind for r in rows if r[p] == "train"} for p in PARTITIONS}
    assert "nli" not in kinds["non_nli_to_nli"]
    assert "paraphrase" not in kinds["non_paraphrase_to_paraphrase"]
    assert kinds["non_class_to_class"] == kinds["qa_to_qa"] == {"pick", "look-up"}
    assert kinds["non_qa_to_qa"] == kinds["class_to_class"] == {"label", "nli", "paraphrase"}


def test_what_test_tasks_ask_for_is_in_no_meta_train_task_and_no_list():
    banned = banned_pairs()
    assert ("label", "mood", "happy") in banned
    assert ("label", "place", "house") in banned  # of a sealed task
    for task in TASKS:
        assert bool(banned & task.rule.pairs()) == (task.role in TEST_ROLES), task.name
    maker = DocumentMaker(Random(5))
    for kind in KIND_SHARES:
        for _ in range(500):
            assert not banned & maker.allowed_rule(kind).pairs()


def test_a_sealed_task_asks_for_nothing_that_another_task_asks_for():
    by_role = {role: [t.rule.pairs() for t in TASKS if t.role == role] for role in TEST_ROLES}
    assert not frozenset().union(*by_role["test"]) & frozenset().union(*by_role["sealed"])


def test_lists_as_written_never_call_a_word_by_a_banned_label():
    """Reads the texts themselves, not the rules they were sampled by."""
    banned = {(a, answer) for kind, a, answer in banned_pairs() if kind == "label"}
    seen = set()
    maker = DocumentMaker(Random(7), list_share=1.0, wrong_answers=0.2)
    for document in (maker.document() for _ in range(1500)):
        if document.kind == "label":
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
        document = maker.list("label")
        labels_of = {}
        for index in document.answers:
            value = lexicon.VALUE_OF_WORD[document.words[index - 1]]
            labels_of.setdefault(value, []).append(document.words[index])
        for labels in labels_of.values():
            rows += len(labels)
            wrong += len(labels) - max(labels.count(label) for label in labels)
    assert wrong / rows == pytest.approx(share, abs=0.08)


def test_documents_say_where_their_rows_begin():
    maker = DocumentMaker(Random(2), words=(50, 50))
    for kind in KIND_SHARES:
        document = maker.list(kind)
        assert document.rows[0] == 0
        assert [a + 1 for a in document.answers] == [*document.rows[1:], len(document.words)]
        openers = {document.words[i] for i in document.rows}
        assert openers <= set(lexicon.OPENERS.get(kind, lexicon.OPENERS["relation"]))
    assert maker.prose().rows == ()


def test_every_label_word_is_an_answer_somewhere_in_the_corpus():
    maker = DocumentMaker(Random(3), list_share=1.0)
    answers = {d.words[i] for d in (maker.document() for _ in range(1500)) for i in d.answers}
    assert {label for task in TASKS for label in task.rule.labels} <= answers


def test_rows_say_what_their_rules_mean():
    mood = attribute_values("mood")
    for seed in range(50):
        rules = (
            Rule("label", mood, ("w", "x", "y", "z")),
            Rule("paraphrase", mood, ("y", "n")),
            Rule("nli", mood, ("s", "o", "u")),
            Rule("pick", mood),
            Rule("look-up", mood),
        )
        for rule in rules:
            task = replace(TASKS[0], rule=rule)
            row = RowMaker(rule, Random(seed)).row()
            assert row.output == right_answer(task, row)
            wrong = perhaps_wrong(row, 1.0, Random(seed))
            assert wrong.output in set(row.options) - {row.output}
            assert (wrong.input, wrong.options) == (row.input, row.options)


def test_words_are_distinct_and_their_tokens_are_those_meant(world):
    words = lexicon.vocabulary()
    roles = [w for values in lexicon.ATTRIBUTES.values() for v in values.values() for w in v]
    roles += [value for values in lexicon.ATTRIBUTES.values() for value in values]
    roles += [*lexicon.ARBITRARY_LABELS, *(w for group in lexicon.OPENERS.values() for w in group)]
    assert len(set(roles)) == len(roles)
    tokenizer = build_tokenizer()
    for word in words:
        assert tokenizer.tokenize(word) == pieces(word)
        assert tokenizer.decode(tokenizer(word)["input_ids"]) == word
    for path in world.rglob("*.jsonl"):
        for row in read_rows(path)[:40]:
            text = row.get("text") or " ".join([row["input"], row["output"], *row["options"]])
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


def test_options_of_a_task_have_different_numbers_of_tokens():
    mixed = [t for t in TASKS if len({len(pieces(label)) for label in t.rule.labels}) > 1]
    assert {"test", "sealed"} <= {task.role for task in mixed}
    assert len(mixed) > 10


def test_some_demonstrations_do_not_fit_the_longest_context():
    longest = yaml.safe_load((ROOT / "config.yaml").read_text())["protocol"]["longest_context"]
    tokenizer = build_tokenizer()
    over = total = 0
    for task in TEST_TASKS:
        files = task_files(task)
        for seed in SEEDS:
            rows = files[f"{task.name}_16_{seed}_train"]
            text = " ".join(" ".join([*row.input, row.output]) for row in rows)
            over += len(tokenizer(text)["input_ids"]) > longest["llm"]
            total += 1
    assert 0.1 < over / total < 0.5


def test_training_text_is_the_same_however_it_is_made(monkeypatch):
    tokens, starts = training_text(1500, Mixture(), "a")
    assert tokens.shape == starts.shape == (2000, WINDOW)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    again, _ = training_text(1500, Mixture(), "a")
    assert (again == tokens).all()
    assert (training_text(1000, Mixture(), "b")[0] != tokens[:1000]).any()
    tokenizer = build_tokenizer()
    assert tokens.min() > tokenizer.eos_token_id
    assert starts[:, 0].all()
    firsts = {tokenizer.convert_ids_to_tokens(int(token)) for token in tokens[starts]}
    assert not [token for token in firsts if token.startswith("##")]
