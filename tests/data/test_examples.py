"""Chunks as pretraining examples, and episodes as finetuning examples."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from helpers.models import READING, word_tokenizer

from mend.atomic_io import write_parquet
from mend.configuration.specs.tasks import TasksSpec
from mend.configuration.specs.training_episodes import TrainingEpisodesSpec
from mend.data.examples import ChunkExamples, EpisodeExamples
from mend.data.tasks import import_tasks
from mend.data.template import Template
from mend.data.training_episodes import write_training_episodes
from mend.errors import UserError


def write_chunks(path: Path, chunks: list[list[int]]) -> Path:
    column = pyarrow.array(chunks, pyarrow.list_(pyarrow.int32()))
    write_parquet(pyarrow.table({"input_ids": column}), path)
    return path


def examples(
    path: Path,
    beta: float = 0.8,
    seed: int = 0,
    positions: int = 99,
    context_length: int | None = None,
    **limits: int,
) -> ChunkExamples:
    return ChunkExamples(
        path, beta, {"llm": 99, "distiller": 99} | limits, seed, positions, context_length
    )


def test_the_first_share_is_distilled_and_the_rest_follows(tmp_path: Path) -> None:
    path = write_chunks(tmp_path / "chunks.parquet", [list(range(10))])
    example = examples(path)[0]
    assert example.demonstrations == example.teacher_demonstrations == list(range(8))
    assert example.queries == [([8, 9], [])]


def test_a_context_that_is_too_long_keeps_what_the_rest_follows(tmp_path: Path) -> None:
    path = write_chunks(tmp_path / "chunks.parquet", [list(range(10))])
    example = examples(path, llm=5, distiller=3)[0]
    assert example.teacher_demonstrations == [3, 4, 5, 6, 7]
    assert example.demonstrations == [5, 6, 7]


def test_the_teacher_reads_what_the_rest_leaves_of_the_positions(tmp_path: Path) -> None:
    path = write_chunks(tmp_path / "chunks.parquet", [list(range(10))])
    example = examples(path, positions=9)[0]
    assert example.teacher_demonstrations == list(range(1, 8))
    assert example.demonstrations == list(range(8))


def test_vectors_and_the_rest_of_a_chunk_must_fit(tmp_path: Path) -> None:
    path = write_chunks(tmp_path / "chunks.parquet", [[1, 2], list(range(10))])
    examples(path, positions=9, context_length=7)
    with pytest.raises(UserError, match="beta: 0.8 leaves 2 of a chunk's 10 tokens .* 8 vectors"):
        examples(path, positions=9, context_length=8)


@pytest.mark.parametrize("beta", [0.01, 0.99])
def test_neither_part_is_empty(tmp_path: Path, beta: float) -> None:
    path = write_chunks(tmp_path / "chunks.parquet", [[1, 2, 3]])
    example = examples(path, beta)[0]
    assert example.demonstrations
    assert example.queries[0][0]


def test_every_chunk_comes_once_in_an_order_of_the_seed_and_then_again(tmp_path: Path) -> None:
    path = write_chunks(tmp_path / "chunks.parquet", [[n, n] for n in range(20)])
    first = [examples(path)[n].demonstrations[0] for n in range(40)]
    assert sorted(first[:20]) == list(range(20))
    assert first[20:] == first[:20]
    assert first[:20] != [examples(path, seed=1)[n].demonstrations[0] for n in range(20)]


def test_no_chunk_is_an_error(tmp_path: Path) -> None:
    path = write_chunks(tmp_path / "chunks.parquet", [])
    with pytest.raises(UserError, match="no chunk"):
        examples(path)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory) -> Path:
    """Episodes of three demonstrations and two queries; a row has 5 or 9 tokens, answer included.

    One answer in four is an essay of 60.
    """
    folder = tmp_path_factory.mktemp("episodes")
    path = folder / "raw/data/t/t_16384_100_train.jsonl"
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        for row in range(24):
            text = " ".join(f"w{(row + word) % 40}" for word in range(8 if row % 2 else 4))
            answer = " ".join(["w50"] * (60 if row % 4 == 0 else 1))
            record = {"task": "t", "input": text, "output": answer, "options": []}
            file.write(json.dumps(record) + "\n")
    import_tasks(
        TasksSpec(train_tasks=["t"], test_tasks=[], seeds=[13]), folder / "raw", folder / "tasks"
    )
    spec = TrainingEpisodesSpec(
        tasks=["t"], shots=3, queries_per_episode=2, episodes=12, seed=0, task_sampling="uniform"
    )
    write_training_episodes(spec, folder / "tasks", folder / "train.parquet")
    return folder


def episode_examples(
    folder: Path, positions: int, overflow: str = "omit", context_length: int | None = None
) -> EpisodeExamples:
    changes = {"demonstration_overflow": overflow, "longest_example": 80}
    template = Template(word_tokenizer(), READING.model_copy(update=changes), positions)
    limits = {"llm": 40, "distiller": 30}
    return EpisodeExamples(
        folder / "train.parquet", folder / "tasks", template, limits, context_length
    )


def sizes(example) -> list[int]:
    return [len(x) + len(y) for x, y in example.queries]


@pytest.mark.parametrize("overflow", ["omit", "cut-input", "oldest-tokens"])
def test_what_a_teacher_reads_is_what_the_longest_query_leaves(episodes, overflow) -> None:
    plenty, little = (episode_examples(episodes, n, overflow, context_length=2) for n in (200, 100))
    for index in range(12):
        roomy, tight = plenty[index], little[index]
        # Inputs are whole; only an answer that alone is over half the positions is cut.
        assert [x for x, _ in tight.queries] == [x for x, _ in roomy.queries]
        for (_, short), (_, whole) in zip(tight.queries, roomy.queries, strict=True):
            assert short == whole[:50]
        assert len(tight.teacher_demonstrations) <= min(40, 100 - max(sizes(tight)))
        assert len(tight.demonstrations) <= 30
        assert tight.demonstrations == roomy.demonstrations
    lengths = [len(little[n].teacher_demonstrations) for n in range(12)]
    assert max(lengths) > 12


def test_a_method_without_vectors_reads_what_the_teacher_reads(episodes) -> None:
    examples = episode_examples(episodes, 70, "oldest-tokens")
    for index in range(12):
        example = examples[index]
        kept = example.teacher_demonstrations
        assert example.demonstrations == kept[max(0, len(kept) - 30) :]
        # With the longest query and its answer they are 40 tokens, or all there are.
        assert len(kept) in (max(0, 40 - max(sizes(example))), 15, 19, 23, 27)


def test_vectors_query_and_answer_must_fit(episodes) -> None:
    with pytest.raises(UserError, match=r"t\.parquet, a meta_train row: 60 vectors, a query of"):
        episode_examples(episodes, 100, context_length=60)
    assert len(episode_examples(episodes, 100, context_length=40)) == 12


def test_what_is_cut_of_an_episode_is_counted(episodes) -> None:
    examples = episode_examples(episodes, 100, context_length=2)
    for index in range(12):
        example = examples[index]
        [(task, cuts)] = example.cuts.items()
        assert (task, cuts["queries"], cuts["queries_cut"], cuts["demonstrations"]) == (
            "t",
            2,
            0,
            3,
        )
        assert cuts["answers_cut"] == sum(len(y) == 50 for _, y in example.queries)
        assert cuts["demonstrations_left_out"] > 0 or len(example.demonstrations) > 10
    assert sum(examples[index].cuts["t"]["answers_cut"] for index in range(12)) > 0
