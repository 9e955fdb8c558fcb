"""Chunks as pretraining examples."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest

from mend.atomic_io import write_parquet
from mend.data.examples import ChunkExamples
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
    vectors: int | None = None,
    **limits: int,
) -> ChunkExamples:
    return ChunkExamples(
        path, beta, {"llm": 99, "distiller": 99} | limits, seed, positions, vectors
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
    examples(path, positions=9, vectors=7)
    with pytest.raises(UserError, match="beta: 0.8 leaves 2 of a chunk's 10 tokens .* 8 vectors"):
        examples(path, positions=9, vectors=8)


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
