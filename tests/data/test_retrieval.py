"""Retrieved demonstrations: the nearest, the nearest last, the same every time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy
import pyarrow.parquet
import pytest

import mend
from mend.configuration.specs.evaluation_episodes import EvaluationEpisodesSpec
from mend.configuration.specs.tasks import TasksSpec
from mend.data.evaluation_episodes import write_evaluation_episodes
from mend.data.retrieval import Embed, bm25_scores, cosine_scores, nearest, nearest_rows
from mend.data.tasks import import_tasks, load_rows
from mend.errors import UserError

SEEDS = [13, 21]
POOL = [f"w{n} w{n + 1} w{n % 3}" for n in range(20)]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Two tasks; a test row has the words of one pool row, apart from one."""
    folder = tmp_path_factory.mktemp("retrieval")
    for task in ("one", "two"):
        for seed in SEEDS:
            inputs = {
                "16_{}_train": POOL[:4],
                "20_{}_train": POOL if seed == 13 else POOL[::-1],
                "16_{}_dev": ["w40 w2", "w41 w5"],
                "16_{}_test": [f"w{n + 1} w{n} w50" for n in range(1, 18)],
            }
            for name, texts in inputs.items():
                path = folder / f"raw/data/{task}/{task}_{name.format(seed)}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                rows = [{"task": task, "input": text, "output": "a"} for text in texts]
                lines = [json.dumps({**row, "options": ["a", "b"]}) + "\n" for row in rows]
                path.write_text("".join(lines))
    spec = TasksSpec(train_tasks=[], test_tasks=["one", "two"], seeds=SEEDS, pool=20)
    import_tasks(spec, folder / "raw", folder / "tasks")
    return folder / "tasks"


def episodes(
    tasks: Path, folder: Path, embed: Embed | None = None, **changes
) -> dict[tuple[str, int, int], list[int]]:
    spec = EvaluationEpisodesSpec(
        tasks=["one", "two"], shots=4, seeds=SEEDS, demonstrations_at_test="per-row", seed=0
    ).model_copy(update=changes)
    write_evaluation_episodes(spec, tasks, "test", folder / "test.parquet", partial(nearest, embed))
    rows = pyarrow.parquet.read_table(folder / "test.parquet").to_pylist()
    return {(row["task"], row["seed"], row["row"]): row["demonstrations"] for row in rows}


def test_bm25_is_lucenes_formula() -> None:
    pool = ["red fox", "red red den of the fox", "blue sea"]
    [found] = bm25_scores(["Red sea, RED?"], pool)
    lengths = numpy.array([2, 6, 2])
    norm = 1.5 * (1 - 0.75 + 0.75 * lengths / lengths.mean())
    red, sea = numpy.array([1, 2, 0]), numpy.array([0, 0, 1])
    weight = {count: numpy.log(1 + (3 - count + 0.5) / (count + 0.5)) for count in (1, 2)}
    expected = 2 * weight[2] * red / (red + norm) + weight[1] * sea / (sea + norm)
    assert found == pytest.approx(expected, rel=1e-5)


def test_texts_without_common_words_score_zero() -> None:
    assert not bm25_scores(["", "?!", "z"], ["a b", "?", "c"]).any()
    assert not bm25_scores(["a"], ["?", ""]).any()
    # A word of one letter counts, and so does a frequent one.
    assert bm25_scores(["a", "the"], ["a b", "the c"]).tolist()[0][1] == 0
    assert (bm25_scores(["a", "the"], ["a b", "the c"]).diagonal() > 0).all()


def test_bm25_reads_nothing_that_may_be_installed_besides(tmp_path: Path) -> None:
    """Some libraries for it use JAX where they find it, and end where that cannot start."""
    for name in ("jax", "numba", "scipy", "torch"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not on this machine')")
    code = (
        "from mend.data.retrieval import bm25_scores\nprint(bm25_scores(['a'], ['a b', 'c']) > 0)"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(mend.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["[[", "True", "False]]"], done.stderr


def test_the_nearest_is_last_and_equal_rows_go_by_number() -> None:
    scores = numpy.array([[1.0, 3.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert nearest_rows(scores, 4).tolist() == [[2, 0, 3, 1], [3, 2, 1, 0]]
    assert nearest_rows(scores, 9).tolist() == [[4, 2, 0, 3, 1], [4, 3, 2, 1, 0]]
    assert nearest_rows(scores, 0).shape == (2, 0)
    alternating = numpy.array([[0.0, 1.0] * 50])
    assert nearest_rows(alternating, 50).tolist() == [list(range(1, 100, 2))[::-1]]


def test_bm25_episodes_show_what_shares_words(tasks: Path, tmp_path: Path) -> None:
    demonstrations = episodes(tasks, tmp_path, selection="bm25")
    assert len(demonstrations) == 2 * 2 * 17
    for (task, seed, row), numbers in demonstrations.items():
        assert len(set(numbers)) == 4
        pool = load_rows(tasks, task).rows("pool", seed)
        query = set(load_rows(tasks, task).rows("test", seed)[row].input.split())
        common = [len(query & set(pool[number].input.split())) for number in numbers]
        # Query `w2 w1 w50` and pool row `w1 w2 w1`.
        assert common[-1] == 2 == max(len(query & set(other.input.split())) for other in pool)
        assert common[-2] >= 1
        assert demonstrations["one", seed, row] == numbers
    table = pyarrow.parquet.read_table(tmp_path / "test.parquet")
    assert table.column_names[-1] == "selection"
    assert set(table["selection"].to_pylist()) == {"bm25"}
    # Random seed and rule of sampling have no part in it; fewer shots are the end of more.
    options = {"seed": 5, "demonstrations_at_test": "per-seed", "rows": 6}
    other = episodes(tasks, tmp_path, selection="bm25", shots=2, **options)
    assert 0 < len(other) < len(demonstrations)
    assert other == {key: demonstrations[key][-2:] for key in other}


def test_dense_episodes_are_nearest_by_their_embeddings(tasks: Path, tmp_path: Path) -> None:
    def embed(texts: Sequence[str]) -> numpy.ndarray:
        return numpy.array([[text.count(digit) + 0.1 for digit in "123456789"] for text in texts])

    demonstrations = episodes(tasks, tmp_path, embed, selection="dense")
    data = (tmp_path / "test.parquet").read_bytes()
    assert episodes(tasks, tmp_path, embed, selection="dense") == demonstrations
    assert (tmp_path / "test.parquet").read_bytes() == data
    assert set(pyarrow.parquet.read_table(tmp_path / "test.parquet")["selection"].to_pylist()) == {
        "dense"
    }
    for seed in SEEDS:
        pool = embed([row.input for row in load_rows(tasks, "one").rows("pool", seed)])
        for row, query in enumerate(load_rows(tasks, "one").rows("test", seed)):
            [vector] = embed([query.input])
            cosines = pool @ vector / numpy.linalg.norm(pool, axis=1) / numpy.linalg.norm(vector)
            found = cosines[demonstrations["one", seed, row]]
            assert found.tolist() == pytest.approx(numpy.sort(cosines)[-4:].tolist())
    assert demonstrations != episodes(tasks, tmp_path, selection="bm25")


def test_equal_texts_are_equally_near_and_read_once() -> None:
    read = []

    def embed(texts):
        read.extend(texts)
        return numpy.random.default_rng(len(texts)).normal(size=(len(texts), 7))

    queries = {13: ["x", "a"], 21: ["x"]}
    pools = {13: ["a", "b", "a", "c", "a"], 21: ["b", "d"]}
    scores = cosine_scores(embed, queries, pools)
    assert sorted(read) == ["a", "b", "c", "d", "x"]
    assert scores[13].shape == (2, 5)
    assert scores[21].shape == (1, 2)
    assert (scores[13][:, [0, 2]] == scores[13][:, [4]]).all()
    assert scores[13][1, 0] == 1
    assert scores[13][0, 1] == scores[21][0, 0]
    assert nearest_rows(scores[13], 3)[1].tolist() == [4, 2, 0]


def test_a_vector_of_zeros_is_near_to_nothing() -> None:
    scores = cosine_scores(lambda texts: numpy.zeros((len(texts), 3)), {1: ["x"]}, {1: ["y"]})
    assert scores[1].tolist() == [[0.0]]


def test_random_rows_of_the_pool(tasks: Path, tmp_path: Path) -> None:
    demonstrations = episodes(tasks, tmp_path, selection="pool", shots=12)
    assert all(len(set(numbers)) == 12 for numbers in demonstrations.values())
    assert {number for numbers in demonstrations.values() for number in numbers} == set(range(20))
    assert set(pyarrow.parquet.read_table(tmp_path / "test.parquet")["selection"].to_pylist()) == {
        "pool"
    }
    few = episodes(tasks, tmp_path, selection="pool", shots=3)
    assert few == {key: numbers[:3] for key, numbers in demonstrations.items()}
    in_order = episodes(tasks, tmp_path, selection="pool", demonstrations_at_test="per-seed")
    assert set(map(tuple, in_order.values())) == {(0, 1, 2, 3)}


def test_a_pool_that_is_not_there_or_too_small(tasks: Path, tmp_path: Path, caplog) -> None:
    assert all(len(n) == 20 for n in episodes(tasks, tmp_path, selection="bm25", shots=64).values())
    assert "task one, seed 13: 20 pool rows, so 20 demonstrations instead of 64" in caplog.text
    with pytest.raises(UserError, match="task one has 0 pool rows and 0 test rows of seed 42"):
        episodes(tasks, tmp_path, selection="pool", seeds=[42])


def test_train_is_the_default_byte_for_byte(tasks: Path, tmp_path: Path) -> None:
    demonstrations = episodes(tasks, tmp_path)
    data = (tmp_path / "test.parquet").read_bytes()
    assert "selection" not in pyarrow.parquet.read_schema(tmp_path / "test.parquet").names
    assert episodes(tasks, tmp_path, selection="train") == demonstrations
    assert (tmp_path / "test.parquet").read_bytes() == data
