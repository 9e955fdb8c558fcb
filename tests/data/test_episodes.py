"""Episodes: distinct rows, fair samples, and samples that depend on nothing they should not."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from helpers.models import READING
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mend.configuration.specs.evaluation_episodes import EvaluationEpisodesSpec
from mend.configuration.specs.training_episodes import LabelNames, TrainingEpisodesSpec
from mend.data.evaluation_episodes import write_evaluation_episodes
from mend.data.examples import EpisodeExamples
from mend.data.tasks import load_rows
from mend.data.template import Template
from mend.data.training_episodes import write_training_episodes
from mend.errors import UserError

SEEDS = [13, 21]


def write_task(folder: Path, task: str, pool: int = 0, train: int = 16, rows: int = 40) -> None:
    columns: dict[str, list] = {"split": [], "seed": [], "row": []}
    parts = [("meta_train", 100, pool)]
    for seed in SEEDS:
        parts += [("train", seed, train), ("dev", seed, 16), ("test", seed, rows)]
    for split, seed, count in parts:
        columns["split"] += [split] * count
        columns["seed"] += [seed] * count
        columns["row"] += range(count)
    folder.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{task}.parquet")


def label_rows(folder: Path, task: str, labels: list[str] | None) -> None:
    """Write 60 meta-train rows with the same options, or each with its own."""
    letters = "abcdefghij"
    rows = []
    for row in range(60):
        options = labels or [f"{row} of {number}" for number in range(3)]
        text = f"word{letters[row % 10]} word{letters[row // 10]}"
        rows.append({"input": text, "output": options[row % 3], "options": options})
        rows[-1] |= {"split": "meta_train", "seed": 100, "row": row}
    folder.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{task}.parquet")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for task, pool in (("small", 50), ("large", 450), ("a:b", 100)):
        write_task(folder, task, pool)
    return folder


def training(folder: Path, output: Path, **changes) -> dict:
    spec = TrainingEpisodesSpec(
        tasks=["small", "large", "a:b"],
        shots=16,
        queries_per_episode=3,
        episodes=600,
        seed=0,
        task_sampling="uniform",
    ).model_copy(update=changes)
    write_training_episodes(spec, folder, output / "train.parquet")
    return pyarrow.parquet.read_table(output / "train.parquet").to_pydict()


def evaluation(folder: Path, output: Path, split: str = "test", **changes) -> dict:
    spec = EvaluationEpisodesSpec(
        tasks=["small", "large"], shots=4, seeds=SEEDS, demonstrations_at_test="per-row", seed=0
    ).model_copy(update=changes)
    write_evaluation_episodes(spec, folder, split, output / "test.parquet")
    return pyarrow.parquet.read_table(output / "test.parquet").to_pydict()


def records(columns: dict) -> dict:
    """{(task, seed, row): demonstrations}."""
    keys = zip(columns["task"], columns["seed"], columns["row"], strict=True)
    return dict(zip(keys, columns["demonstrations"], strict=True))


def test_labels_have_their_own_names_unless_asked(tasks, tmp_path):
    assert training(tasks, tmp_path)["label_names"] == [[]] * 600


def test_labels_have_other_names_in_a_share_of_episodes(tmp_path):
    label_rows(tmp_path / "tasks", "labels", ["no", "perhaps", "yes"])
    label_rows(tmp_path / "tasks", "questions", None)
    names = {"tasks": ["labels", "questions"], "shots": 4}
    own = training(tmp_path / "tasks", tmp_path, **names)
    shares = LabelNames(shuffled=0.25, replaced=0.5)
    episodes = training(tmp_path / "tasks", tmp_path, **names, label_names=shares)
    for column in ("task", "demonstrations", "queries"):
        assert episodes[column] == own[column]
    named = dict.fromkeys(("own", "shuffled", "replaced"), 0)
    for task, found in zip(episodes["task"], episodes["label_names"], strict=True):
        if task == "questions" or not found:
            assert found == []
            named["own"] += task == "labels"
        elif sorted(found) == ["no", "perhaps", "yes"]:
            named["shuffled"] += 1
        else:
            assert len(set(found)) == 3
            assert set(found) <= {f"word{letter}" for letter in "abcdefghij"}
            named["replaced"] += 1
    count = sum(named.values())
    assert named["shuffled"] == pytest.approx(0.25 * count, abs=0.07 * count)
    assert named["replaced"] == pytest.approx(0.5 * count, abs=0.07 * count)
    again = training(tmp_path / "tasks", tmp_path, **names, label_names=shares)
    assert again["label_names"] == episodes["label_names"]


def test_an_episode_is_read_with_its_labels_names(tmp_path):
    label_rows(tmp_path / "tasks", "labels", ["no", "perhaps", "yes"])
    shares = LabelNames(replaced=1.0)
    training(tmp_path / "tasks", tmp_path, tasks=["labels"], shots=4, label_names=shares)
    path = tmp_path / "train.parquet"
    table = pyarrow.parquet.read_table(path).to_pylist()
    words = ["[UNK]", "no", "perhaps", "yes", *(f"word{letter}" for letter in "abcdefghij")]
    numbers = {word: number for number, word in enumerate(words)}
    model = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]")
    template = Template(tokenizer, READING, 200)
    limits = {"llm": 100, "distiller": 100}
    read = EpisodeExamples(
        path, tmp_path / "tasks", template, limits, context_length=2, options=True
    )
    rows = load_rows(tmp_path / "tasks", "labels").rows("meta_train")
    for index in range(5):
        episode, example = table[index], read[index]
        new = dict(zip(["no", "perhaps", "yes"], episode["label_names"], strict=True))
        shown = " ".join(
            f"{rows[row].input} {new[rows[row].output]}" for row in episode["demonstrations"]
        )
        assert tokenizer.decode(example.demonstrations) == shown
        for row, (_, y), others in zip(
            episode["queries"], example.queries, example.others, strict=True
        ):
            assert tokenizer.decode(y) == new[rows[row].output]
            wrong = [new[option] for option in rows[row].options if option != rows[row].output]
            assert [tokenizer.decode(option) for option in others] == wrong

    table[3]["label_names"] = ["no"]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    with pytest.raises(UserError, match=r"train\.parquet: column label_names of task labels"):
        EpisodeExamples(path, tmp_path / "tasks", template, limits, context_length=2)


def test_an_episode_has_distinct_rows_of_its_task(tasks, tmp_path):
    episodes = training(tasks, tmp_path)
    sizes = {"small": 50, "large": 450, "a:b": 100}
    assert episodes["episode"] == list(range(600))
    for task, demonstrations, asked in zip(
        episodes["task"], episodes["demonstrations"], episodes["queries"], strict=True
    ):
        assert (len(demonstrations), len(asked)) == (16, 3)
        assert len({*demonstrations, *asked}) == 19
        assert min(demonstrations + asked) >= 0
        assert max(demonstrations + asked) < sizes[task]
    schema = pyarrow.parquet.read_schema(tmp_path / "train.parquet")
    assert [(f.name, str(f.type)) for f in schema] == [
        ("episode", "int32"),
        ("task", "string"),
        ("demonstrations", "list<element: int32>"),
        ("queries", "list<element: int32>"),
        ("label_names", "list<element: string>"),
    ]


def test_every_row_comes_and_order_is_random(tasks, tmp_path):
    episodes = training(tasks, tmp_path, tasks=["small"])
    assert {row for rows in episodes["demonstrations"] for row in rows} == set(range(50))
    assert {row for rows in episodes["queries"] for row in rows} == set(range(50))
    assert any(rows != sorted(rows) for rows in episodes["demonstrations"])


def test_uniform_and_proportional_sampling(tasks, tmp_path):
    uniform = Counter(training(tasks, tmp_path, episodes=6000)["task"])
    rows = Counter(training(tasks, tmp_path, episodes=6000, task_sampling="proportional")["task"])
    # Five standard deviations around 6000 / 3, and 6000 times 50, 450 and 100 of 600.
    assert all(abs(uniform[task] - 2000) < 183 for task in ("small", "large", "a:b"))
    assert abs(rows["small"] - 500) < 108
    assert abs(rows["large"] - 4500) < 168
    assert abs(rows["a:b"] - 1000) < 145


def test_training_samples_repeat_and_follow_the_seed(tasks, tmp_path):
    first = training(tasks, tmp_path)
    data = (tmp_path / "train.parquet").read_bytes()
    assert training(tasks, tmp_path, tasks=["a:b", "large", "small", "large"]) == first
    assert (tmp_path / "train.parquet").read_bytes() == data
    other = training(tasks, tmp_path, seed=1)
    assert other["task"] != first["task"]
    assert other["queries"] != first["queries"]
    assert training(tasks, tmp_path, episodes=100)["queries"] == first["queries"][:100]


def test_samples_are_the_same_on_every_machine(tasks, tmp_path):
    # A change here changes every result of every user: it must be meant.
    episodes = training(tasks, tmp_path, episodes=5)
    text = repr((episodes["task"], episodes["demonstrations"], episodes["queries"]))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "dd9783fd9167139f"
    rows = evaluation(tasks, tmp_path, rows=5)
    text = repr((rows["row"], rows["demonstrations"], rows["context"]))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "6f6282effc3b3b53"


def test_a_task_samples_the_same_rows_whatever_the_others(tasks, tmp_path):
    def rows_of(task: str, episodes: dict) -> list:
        return [
            (demonstrations, asked)
            for name, demonstrations, asked in zip(
                episodes["task"], episodes["demonstrations"], episodes["queries"], strict=True
            )
            if name == task
        ]

    together = rows_of("a:b", training(tasks, tmp_path))
    alone = rows_of("a:b", training(tasks, tmp_path, tasks=["a:b"]))
    assert 100 < len(together) < len(alone)
    assert together == alone[: len(together)]


def test_tasks_of_the_same_size_sample_different_rows(tmp_path):
    for task in ("one", "two"):
        write_task(tmp_path / "tasks", task, 50)
    samples = [training(tmp_path / "tasks", tmp_path, tasks=[task]) for task in ("one", "two")]
    assert samples[0]["queries"] != samples[1]["queries"]


def test_too_few_rows_for_an_episode(tasks, tmp_path):
    training(tasks, tmp_path, tasks=["small"], shots=47, queries_per_episode=3)
    with pytest.raises(UserError) as raised:
        training(tasks, tmp_path, shots=48, queries_per_episode=3)
    assert "task small has 50 meta-train rows" in str(raised.value)
    assert "48 demonstrations and 3 queries" in str(raised.value)
    write_task(tmp_path / "tasks", "none")
    with pytest.raises(UserError, match="task none has 0 meta-train rows"):
        training(tmp_path / "tasks", tmp_path, tasks=["none"])
    with pytest.raises(UserError, match=r"absent\.parquet"):
        training(tasks, tmp_path, tasks=["absent"])
    with pytest.raises(UserError, match="list of tasks is empty"):
        training(tasks, tmp_path, tasks=[])


@pytest.mark.parametrize("split", ["dev", "test"])
def test_per_row_samples_anew_for_each_row(tasks, tmp_path, split):
    columns = evaluation(tasks, tmp_path, split)
    found = records(columns)
    count = 40 if split == "test" else 16
    assert list(found) == [
        (task, seed, row) for task in ("small", "large") for seed in SEEDS for row in range(count)
    ]
    for rows in found.values():
        assert len(rows) == len(set(rows)) == 4
        assert set(rows) <= set(range(16))
    samples = {
        tuple(rows) for (task, seed, _), rows in found.items() if (task, seed) == ("small", 13)
    }
    assert len(samples) > count // 2
    assert [found["small", 13, i] for i in range(16)] != [found["small", 21, i] for i in range(16)]
    assert [found["small", 13, i] for i in range(16)] != [found["large", 13, i] for i in range(16)]


def test_every_demonstration_is_as_likely(tmp_path):
    write_task(tmp_path / "tasks", "many", rows=4000)
    columns = evaluation(tmp_path / "tasks", tmp_path, tasks=["many"], seeds=[13])
    counts = Counter(rows[0] for rows in columns["demonstrations"])
    assert all(abs(counts[row] - 250) < 5 * 250**0.5 for row in range(16))


def test_all_of_the_pool_is_a_permutation(tasks, tmp_path):
    demonstrations = records(evaluation(tasks, tmp_path, shots=16))
    assert all(sorted(rows) == list(range(16)) for rows in demonstrations.values())
    assert len({tuple(rows) for rows in demonstrations.values()}) > 100


def test_fewer_shots_are_the_beginning_of_more(tasks, tmp_path):
    most = records(evaluation(tasks, tmp_path, shots=16))
    few = records(evaluation(tasks, tmp_path, shots=3))
    assert few == {key: rows[:3] for key, rows in most.items()}


def test_more_shots_than_rows_takes_all_and_says_so(tmp_path, caplog):
    write_task(tmp_path / "tasks", "tiny", train=5)
    with caplog.at_level(logging.WARNING, logger="mend"):
        columns = evaluation(tmp_path / "tasks", tmp_path, tasks=["tiny"], shots=16)
    assert all(sorted(rows) == list(range(5)) for rows in columns["demonstrations"])
    assert "task tiny, seed 13: 5 train rows, so 5 demonstrations instead of 16" in caplog.text


def test_per_seed_shows_all_rows_the_same(tasks, tmp_path):
    columns = evaluation(tasks, tmp_path, demonstrations_at_test="per-seed")
    assert all(rows == [0, 1, 2, 3] for rows in columns["demonstrations"])
    keys = set(zip(columns["task"], columns["seed"], columns["context"], strict=True))
    assert len(keys) == len({key[:2] for key in keys}) == len({key[2] for key in keys}) == 4


def test_no_shots(tasks, tmp_path):
    columns = evaluation(tasks, tmp_path, shots=0)
    assert all(rows == [] for rows in columns["demonstrations"])
    assert len(set(columns["context"])) == 4


def test_contexts_are_equal_exactly_when_demonstrations_are(tmp_path):
    # 3 rows have 6 orders, so that 40 rows must repeat some.
    for task in ("one", "two"):
        write_task(tmp_path / "tasks", task, train=3)
    columns = evaluation(tmp_path / "tasks", tmp_path, tasks=["one", "two"], shots=3)
    seen: dict[int, set] = {}
    for context, *key in zip(
        columns["context"],
        columns["task"],
        columns["seed"],
        map(tuple, columns["demonstrations"]),
        strict=True,
    ):
        seen.setdefault(context, set()).add(tuple(key))
    assert all(len(keys) == 1 for keys in seen.values())
    assert len(seen) == len(set.union(*seen.values())) == 24
    schema = pyarrow.parquet.read_schema(tmp_path / "test.parquet")
    assert [(f.name, str(f.type)) for f in schema] == [
        ("task", "string"),
        ("seed", "int32"),
        ("row", "int32"),
        ("demonstrations", "list<element: int32>"),
        ("context", "int64"),
    ]


def test_a_limit_takes_the_same_random_rows_for_every_seed(tasks, tmp_path):
    everything = records(evaluation(tasks, tmp_path))
    limited = records(evaluation(tasks, tmp_path, rows=10))
    assert len(limited) == 2 * 2 * 10
    rows = {
        (task, seed): [key[2] for key in limited if key[:2] == (task, seed)]
        for task in ("small", "large")
        for seed in SEEDS
    }
    assert rows["small", 13] == rows["small", 21] == sorted(set(rows["small", 13]))
    assert rows["small", 13] != rows["large", 13]
    assert rows["small", 13] != list(range(10))
    # The rows that stay keep their demonstrations.
    assert limited == {key: everything[key] for key in limited}
    assert records(evaluation(tasks, tmp_path, rows=40)) == everything
    other = records(evaluation(tasks, tmp_path, rows=10, seed=1))
    assert list(other) != list(limited)


def test_evaluation_samples_depend_on_nothing_else(tasks, tmp_path):
    few = records(evaluation(tasks, tmp_path))
    more = records(evaluation(tasks, tmp_path, tasks=["a:b", "large", "small"], seeds=[21, 13]))
    assert few == {key: rows for key, rows in more.items() if key[0] != "a:b"}
    dev = records(evaluation(tasks, tmp_path, "dev"))
    assert [dev["small", 13, i] for i in range(16)] != [few["small", 13, i] for i in range(16)]
    assert records(evaluation(tasks, tmp_path, seed=1)) != few


def test_missing_rows_are_named(tasks, tmp_path):
    with pytest.raises(UserError, match="task small has 0 train rows and 0 test rows of seed 42"):
        evaluation(tasks, tmp_path, seeds=[13, 42])
    with pytest.raises(UserError, match=r"absent\.parquet"):
        evaluation(tasks, tmp_path, tasks=["absent"])
    with pytest.raises(UserError, match="the list of tasks or of seeds is empty"):
        evaluation(tasks, tmp_path, tasks=[])
