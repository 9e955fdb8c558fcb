"""Retrieved demonstrations: the nearest, the nearest last, the same every time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy
import pyarrow.parquet
import pytest
import torch
from helpers.models import random_llm

from mend.data.episodes import write_evaluation_episodes
from mend.data.retrieval import (
    Retriever,
    bm25_scores,
    cosine_scores,
    load_embedder,
    nearest_rows,
)
from mend.data.tasks import import_tasks, load_rows
from mend.errors import UserError

REPOSITORY = Path(__file__).parents[2]
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
    spec = {"train_tasks": [], "test_tasks": ["one", "two"], "seeds": SEEDS, "pool": 20}
    import_tasks(spec, folder / "raw", folder / "tasks")
    return folder / "tasks"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    llm = random_llm()
    llm.model.save_pretrained(folder)
    llm.tokenizer.save_pretrained(folder)
    return folder


def episodes(tasks: Path, folder: Path, **changes) -> dict[tuple[str, int, int], list[int]]:
    spec = {
        "tasks": ["one", "two"],
        "shots": 4,
        "seeds": SEEDS,
        "demonstrations_at_test": "per-row",
        "rows": None,
        "seed": 0,
        **changes,
    }
    write_evaluation_episodes(spec, tasks, "test", folder / "test.parquet")
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


def test_the_library_says_nothing_in_the_log(caplog) -> None:
    bm25_scores(["a"], ["a b", "c"])
    assert not caplog.records


def test_the_nearest_is_last_and_equal_rows_go_by_number() -> None:
    scores = numpy.array([[1.0, 3.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert nearest_rows(scores, 4).tolist() == [[2, 0, 3, 1], [3, 2, 1, 0]]
    assert nearest_rows(scores, 9).tolist() == [[4, 2, 0, 3, 1], [4, 3, 2, 1, 0]]
    assert nearest_rows(scores, 0).shape == (2, 0)
    alternating = numpy.array([[0.0, 1.0] * 50])
    assert nearest_rows(alternating, 50).tolist() == [list(range(1, 100, 2))[::-1]]


def test_bm25_episodes_show_what_shares_words(tasks: Path, tmp_path: Path) -> None:
    shown = episodes(tasks, tmp_path, selection="bm25")
    assert len(shown) == 2 * 2 * 17
    for (task, seed, row), numbers in shown.items():
        assert len(set(numbers)) == 4
        pool = load_rows(tasks, task).rows("pool", seed)
        query = set(load_rows(tasks, task).rows("test", seed)[row].input.split())
        common = [len(query & set(pool[number].input.split())) for number in numbers]
        # Query `w2 w1 w50` and pool row `w1 w2 w1`.
        assert common[-1] == 2 == max(len(query & set(other.input.split())) for other in pool)
        assert common[-2] >= 1
        assert shown["one", seed, row] == numbers
    table = pyarrow.parquet.read_table(tmp_path / "test.parquet")
    assert table.column_names[-1] == "selection"
    assert set(table["selection"].to_pylist()) == {"bm25"}
    # Random seed and rule of drawing have no part in it; fewer shots are the end of more.
    options = {"seed": 5, "demonstrations_at_test": "per-seed", "rows": 6}
    other = episodes(tasks, tmp_path, selection="bm25", shots=2, **options)
    assert 0 < len(other) < len(shown)
    assert other == {key: shown[key][-2:] for key in other}


def test_dense_episodes_follow_the_model(tasks: Path, model: Path, tmp_path: Path) -> None:
    dense = {"kind": "language-model", "model": str(model)}
    shown = episodes(tasks, tmp_path, selection="dense", dense=dense)
    data = (tmp_path / "test.parquet").read_bytes()
    assert episodes(tasks, tmp_path, selection="dense", dense=dense) == shown
    assert (tmp_path / "test.parquet").read_bytes() == data
    assert set(pyarrow.parquet.read_table(tmp_path / "test.parquet")["selection"].to_pylist()) == {
        "dense"
    }
    embed = load_embedder(dense)
    for seed in SEEDS:
        pool = embed([row.input for row in load_rows(tasks, "one").rows("pool", seed)])
        for row, query in enumerate(load_rows(tasks, "one").rows("test", seed)):
            [vector] = embed([query.input])
            cosines = pool @ vector / numpy.linalg.norm(pool, axis=1) / numpy.linalg.norm(vector)
            expected = numpy.argsort(cosines)[-4:]
            assert shown["one", seed, row] == expected.tolist()
    assert shown != episodes(tasks, tmp_path, selection="bm25")


def test_a_language_model_embeds_by_the_mean_of_its_last_states(model: Path) -> None:
    embed = load_embedder({"kind": "language-model", "model": str(model)})
    texts = ["w1", "w5 w6 w7 w8", "w9 w3", "", " ".join(["w4"] * 200)]
    found = embed(texts)
    llm = random_llm()
    for text, vector in zip(texts, found, strict=True):
        ids = torch.tensor([llm.tokenizer(text)["input_ids"][:96]], dtype=torch.long)
        if ids.shape[1]:
            [states] = llm.model.base_model(ids).last_hidden_state
            assert vector == pytest.approx(states.mean(0).numpy(), abs=1e-5)
        else:
            assert not vector.any()


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


def test_sentence_transformers_is_used_where_it_is_asked_for(monkeypatch) -> None:
    def encoder(model, revision):
        assert (model, revision) == ("hub/name", "abc")
        return SimpleNamespace(
            encode=lambda texts, **_: numpy.array([[len(text), 1.0] for text in texts])
        )

    library = SimpleNamespace(SentenceTransformer=encoder)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    dense = {"kind": "sentence-transformers", "model": "hub/name", "revision": "abc"}
    found = Retriever("dense", dense).nearest({13: ["aaaa"]}, {13: ["a", "aaa", "aa"]}, 2)
    assert found[13].tolist() == [[2, 1]]


def test_what_cannot_be_used_is_told(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match="pip install sentence-transformers"):
        Retriever("dense", {"kind": "sentence-transformers", "model": "x"})
    with pytest.raises(UserError, match=r"kind is None.*benchmark.dense_retrieval"):
        Retriever("dense")
    with pytest.raises(UserError, match=r"benchmark\.dense_retrieval.*nowhere"):
        Retriever("dense", {"kind": "language-model", "model": str(tmp_path / "nowhere")})


def test_random_rows_of_the_pool(tasks: Path, tmp_path: Path) -> None:
    shown = episodes(tasks, tmp_path, selection="pool", shots=12)
    assert all(len(set(numbers)) == 12 for numbers in shown.values())
    assert {number for numbers in shown.values() for number in numbers} == set(range(20))
    assert set(pyarrow.parquet.read_table(tmp_path / "test.parquet")["selection"].to_pylist()) == {
        "pool"
    }
    few = episodes(tasks, tmp_path, selection="pool", shots=3)
    assert few == {key: numbers[:3] for key, numbers in shown.items()}
    in_order = episodes(tasks, tmp_path, selection="pool", demonstrations_at_test="per-seed")
    assert set(map(tuple, in_order.values())) == {(0, 1, 2, 3)}


def test_a_pool_that_is_not_there_or_too_small(tasks: Path, tmp_path: Path, caplog) -> None:
    assert all(len(n) == 20 for n in episodes(tasks, tmp_path, selection="bm25", shots=64).values())
    assert "task one, seed 13: 20 pool rows, so 20 demonstrations instead of 64" in caplog.text
    with pytest.raises(UserError, match="task one has 0 pool rows and 0 test rows of seed 42"):
        episodes(tasks, tmp_path, selection="pool", seeds=[42])
    with pytest.raises(UserError, match="selection 'nearest': there are train, pool, bm25, dense"):
        episodes(tasks, tmp_path, selection="nearest")


def test_train_is_the_default_byte_for_byte(tasks: Path, tmp_path: Path) -> None:
    shown = episodes(tasks, tmp_path)
    data = (tmp_path / "test.parquet").read_bytes()
    assert "selection" not in pyarrow.parquet.read_schema(tmp_path / "test.parquet").names
    assert episodes(tasks, tmp_path, selection="train") == shown
    assert (tmp_path / "test.parquet").read_bytes() == data


def test_only_dense_retrieval_imports_torch(tasks: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from mend.data.episodes import write_evaluation_episodes as write\n"
        "spec = dict(tasks=['one'], shots=4, seeds=[13], rows=None, seed=0, selection='bm25')\n"
        "spec['demonstrations_at_test'] = 'per-row'\n"
        f"write(spec, {str(tasks)!r}, 'dev', {str(tmp_path / 'dev.parquet')!r})\n"
        "print(sorted({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
