"""From episodes to items: which demonstrations, how perturbed, in which groups, how many."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from helpers.jobs import prediction
from helpers.models import DISTILLING, READING, build, random_llm, word_tokenizer

from mend.configuration.specs.evaluation_episodes import EvaluationEpisodesSpec
from mend.configuration.specs.run import DistillerSource, LLMSource, MethodSource, RunSpec
from mend.configuration.specs.tasks import TasksSpec
from mend.data.evaluation_episodes import write_evaluation_episodes
from mend.data.items import read_items
from mend.data.perturbation import perturb
from mend.data.retrieval import nearest
from mend.data.tasks import import_tasks, load_rows
from mend.data.template import Template
from mend.errors import UserError
from mend.evaluation.predict import run_prediction
from mend.evaluation.scoring import score_items
from mend.methods.mend import Mend

SEEDS = [13, 21]
OPTIONS = ["w50", "w51", "w52 w53"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A task whose rows have three tokens in x and one or two in y."""
    folder = tmp_path_factory.mktemp("items")
    for number, seed in enumerate(SEEDS):
        parts = [("16", "train", 4), ("16", "dev", 4), ("16", "test", 6), ("9", "train", 9)]
        for part, (rows, split, count) in enumerate(parts):
            path = folder / f"raw/data/t/t_{rows}_{seed}_{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = []
            for row in range(count):
                words = f"w{row} w{10 + part} w{20 + number}"
                record = {"task": "t", "input": words, "output": OPTIONS[row % 3]}
                lines.append(json.dumps({**record, "options": OPTIONS}) + "\n")
            path.write_text("".join(lines))
    spec = TasksSpec(train_tasks=[], test_tasks=["t"], seeds=SEEDS, pool=9)
    import_tasks(spec, folder / "raw", folder / "tasks")
    return folder / "tasks"


def sample(tasks: Path, output: Path, **changes) -> Path:
    spec = EvaluationEpisodesSpec(
        tasks=["t"], shots=4, seeds=SEEDS, demonstrations_at_test="per-row", seed=0
    ).model_copy(update=changes)
    by_words = partial(nearest, None)
    write_evaluation_episodes(spec, tasks, "test", output / "test.parquet", by_words)
    return output / "test.parquet"


def read(tasks: Path, output: Path, limit: int = 40, samples: dict | None = None, **how) -> list:
    """[(row, demonstrations)], the demonstrations as text, or as a list of texts for groups."""
    rows, items = read_both(tasks, output, limit, 96, samples, **how)
    return [(row, as_text(q.demonstrations)) for row, q in zip(rows, items, strict=True)]


def read_both(
    tasks: Path, output: Path, limit: int, positions: int, samples: dict | None = None, **how
) -> tuple:
    template = Template(word_tokenizer(), READING, positions)
    path = sample(tasks, output, **(samples or {}))
    return read_items(path, tasks, "test", template, limit, ["t"], **how)


def as_text(demonstrations: list) -> str | list[str]:
    if demonstrations and not isinstance(demonstrations[0], int):
        return [as_text(group) for group in demonstrations]
    return " ".join(f"w{number}" for number in demonstrations)


def sampled_rows(tasks: Path, output: Path, split: str, **samples) -> list[list]:
    """For each evaluation row the (number, row) of its demonstrations."""
    records = pyarrow.parquet.read_table(sample(tasks, output, **samples)).to_pylist()
    return [
        [
            (number, load_rows(tasks, "t").rows(split, record["seed"])[number])
            for number in record["demonstrations"]
        ]
        for record in records
    ]


@pytest.mark.parametrize(
    ("selection", "split"), [("train", "train"), ("pool", "pool"), ("bm25", "pool")]
)
def test_demonstrations_are_rows_of_what_they_were_chosen_from(tasks, tmp_path, selection, split):
    expected = [
        " ".join(f"{row.input} {row.output}" for _, row in rows)
        for rows in sampled_rows(tasks, tmp_path, split, selection=selection)
    ]
    found = [text for _, text in read(tasks, tmp_path, samples={"selection": selection})]
    assert found == expected
    assert all((f"w{'10' if split == 'train' else '13'} " in text) for text in found)


@pytest.mark.parametrize("kind", ["no-label", "no-input", "random-label", "wrong-label"])
@pytest.mark.parametrize("split", ["train", "pool"])
def test_each_demonstration_is_perturbed_once(tasks, tmp_path, kind, split):
    expected = []
    records = read(tasks, tmp_path, samples={"selection": split})
    for (record, _), rows in zip(
        records, sampled_rows(tasks, tmp_path, split, selection=split), strict=True
    ):
        parts = [
            part
            for number, row in rows
            for part in perturb(*row, kind, (7, "t", record["seed"], split, number))
            if part is not None
        ]
        expected.append(" ".join(parts))
    options = {"perturbation": kind, "sampling_seed": 7, "samples": {"selection": split}}
    found = [text for _, text in read(tasks, tmp_path, **options)]
    assert found == expected
    assert found != [text for _, text in records]


def test_groups_follow_each_other_and_are_cut_on_their_own(tasks, tmp_path):
    whole = [text for _, text in read(tasks, tmp_path, samples={"shots": 3})]
    pairs = [text for _, text in read(tasks, tmp_path, samples={"shots": 3}, group=2)]
    assert [" ".join(groups) for groups in pairs] == whole
    assert {len(groups) for groups in pairs} == {2}
    for rows, groups in zip(sampled_rows(tasks, tmp_path, "train", shots=3), pairs, strict=True):
        ends = [" ".join(f"{row.input} {row.output}" for _, row in rows[i : i + 2]) for i in (0, 2)]
        assert groups == ends
    # 9 tokens are at most two demonstrations, in each group, and four in one context of 20.
    samples = {"selection": "pool", "shots": 9}
    cut = [text for _, text in read(tasks, tmp_path, 10, samples, group=3)]
    for rows, groups in zip(sampled_rows(tasks, tmp_path, "pool", **samples), cut, strict=True):
        assert len(groups) == 3
        for place, group in enumerate(groups):
            start = rows[3 * place][1]
            assert group.startswith(f"{start.input} {start.output}")
            assert 8 <= len(group.split()) <= 10
    none = [text for _, text in read(tasks, tmp_path, samples={"shots": 0}, group=3)]
    assert none == [[""]] * len(none)


def test_of_retrieved_demonstrations_the_nearest_stay(tasks, tmp_path):
    rows = sampled_rows(tasks, tmp_path, "pool", selection="bm25")
    cut = [text for _, text in read(tasks, tmp_path, 10, {"selection": "bm25"})]
    sampled = sampled_rows(tasks, tmp_path, "pool", selection="pool")
    cut_sampled = [text for _, text in read(tasks, tmp_path, 10, {"selection": "pool"})]
    assert all(4 < len(text.split()) <= 10 for text in cut)
    for text, demonstrations in zip(cut, rows, strict=True):
        assert text.endswith(f"{demonstrations[-1][1].input} {demonstrations[-1][1].output}")
    for text, demonstrations in zip(cut_sampled, sampled, strict=True):
        assert text.startswith(f"{demonstrations[0][1].input} {demonstrations[0][1].output}")


def test_a_short_context_has_fewer_whole_demonstrations(tasks, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="mend"):
        found = read(tasks, tmp_path, 9)
    assert not caplog.text
    for (_, text), rows in zip(found, sampled_rows(tasks, tmp_path, "train"), strict=True):
        whole = [f"{row.input} {row.output}" for _, row in rows]
        assert text in (whole[0], " ".join(whole[:2]))
    assert {len(text.split()) for _, text in found} <= {5, 8, 9}


@pytest.mark.parametrize("demonstrations_at_test", ["per-row", "per-seed"])
def test_demonstrations_take_what_the_query_leaves(tasks, tmp_path, demonstrations_at_test):
    samples = {"demonstrations_at_test": demonstrations_at_test}
    # A query has 3 tokens, and the longest option 2: of 17 positions 12 are left.
    _, alone = read_both(tasks, tmp_path, 40, 96, samples, after_context=False)
    _, items = read_both(tasks, tmp_path, 40, 17, samples)
    _, with_vectors = read_both(tasks, tmp_path, 40, 17, samples, context_length=12)
    assert [item.query for item in items] == [item.query for item in alone]
    assert [item.query for item in with_vectors] == [item.query for item in alone]
    assert 8 <= max(len(item.demonstrations) for item in items) <= 12
    # A distiller has positions of its own.
    assert {len(item.demonstrations) for item in with_vectors} >= {17}
    with pytest.raises(UserError, match=r"t\.parquet, test row 0 of seed 13: 13 vectors"):
        read_both(tasks, tmp_path, 40, 17, samples, context_length=13)
    for found in (items, with_vectors):
        by_tokens = {tuple(item.demonstrations): item.context for item in found}
        by_number = {item.context: tuple(item.demonstrations) for item in found}
        assert by_number == {number: ids for ids, number in by_tokens.items()}
    if demonstrations_at_test == "per-seed":
        assert len({item.context for item in items}) == len(SEEDS)


def test_what_was_cut_of_each_row(tasks, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="mend"):
        rows, items = read_both(tasks, tmp_path, 9, 96)
    assert not any(row["query_cut"] or row["demonstrations_cut"] for row in rows)
    for row, item in zip(rows, items, strict=True):
        assert row["demonstrations"] == 4
        assert row["demonstrations_left_out"] == 4 - (1 + (len(item.demonstrations) > 5))
    left_out = sum(row["demonstrations_left_out"] for row in rows)
    assert f"test rows: t: {left_out} of 48 demonstrations left out" in caplog.text
    # Five positions: an option of two tokens leaves three, one fewer than separator and query.
    rows, items = read_both(tasks, tmp_path, 9, 4)
    assert all(row["query_cut"] for row in rows)
    assert {len(item.query) for item in items} == {2}
    rows, _ = read_both(tasks, tmp_path, 9, 96, reads_demonstrations=False)
    assert {row["demonstrations"] for row in rows} == {0}


def test_the_oldest_tokens_fall_off_for_each_option_by_itself(tasks, tmp_path):
    reading = READING.model_copy(update={"demonstration_overflow": "oldest-tokens"})
    template = Template(word_tokenizer(), reading, 16)
    path = sample(tasks, tmp_path)
    rows, items = read_items(path, tasks, "test", template, 40, ["t"])
    _, whole = read_both(tasks, tmp_path, 40, 96)
    for row, item, uncut in zip(rows, items, whole, strict=True):
        assert item.demonstrations == uncut.demonstrations[-16:]
        assert (item.query, item.longest) == (uncut.query, 16)
        assert item.kept_demonstrations() == uncut.demonstrations[-11:]
        assert uncut.kept_demonstrations() == uncut.demonstrations
        # With the longest option, of two tokens, eleven tokens of three or four demonstrations.
        assert row["demonstrations_left_out"] + row["demonstrations_cut"] in (1, 2)
    # Where all fits, nothing is to fall off; vectors are made of the last tokens.
    template = Template(word_tokenizer(), reading, 96)
    _, items = read_items(path, tasks, "test", template, 40, ["t"])
    assert {item.longest for item in items} == {None}
    _, items = read_items(path, tasks, "test", template, 7, ["t"], context_length=2)
    for item, uncut in zip(items, whole, strict=True):
        assert (item.demonstrations, item.longest) == (uncut.demonstrations[-7:], None)


def test_contexts_that_nothing_fits_into_are_empty_and_counted(tasks, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="mend"):
        found = read(tasks, tmp_path, 4, {"selection": "pool"})
    empty = [text for _, text in found if not text]
    rows = sampled_rows(tasks, tmp_path, "pool", selection="pool")
    assert len(empty) == sum(row[0][1].output == OPTIONS[2] for row in rows) > 0
    assert len(empty) < len(found)
    expected = (
        f"{len(empty)} of {len(found)} contexts are empty, because not one demonstration fits"
    )
    assert expected in caplog.text
    assert "longest context of 4 tokens" in caplog.text


def test_a_row_with_nothing_before_its_options_is_refused_by_name(tmp_path):
    def write(inputs: list[str]) -> Path:
        for split in ("train", "dev", "test"):
            path = tmp_path / f"raw/data/t/t_16_{SEEDS[0]}_{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                {"task": "t", "input": text, "output": "w50", "options": OPTIONS}
                for text in (inputs if split == "test" else ["w1", "w2", "w3", "w4"])
            ]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        spec = TasksSpec(train_tasks=[], test_tasks=["t"], seeds=SEEDS[:1])
        import_tasks(spec, tmp_path / "raw", tmp_path / "tasks")
        return tmp_path / "tasks"

    bare = {"after_context": False, "reads_demonstrations": False}
    samples = {"seeds": SEEDS[:1]}
    folder = write(["w1", "w2", ""])
    with pytest.raises(
        UserError, match=r"t\.parquet, test row 2 of seed 13: its input has no token"
    ):
        read_both(folder, tmp_path, 40, 96, samples, **bare, starts=False)
    # A token before it, demonstrations or vectors are enough.
    for how in (bare, {"starts": False}, {"starts": False, "context_length": 2}):
        _, items = read_both(folder, tmp_path, 40, 96, samples, **how)
        assert items[2].query == []


def test_an_empty_context_beside_others_scores_as_the_query_alone(tasks, tmp_path):
    llm = random_llm()
    template = Template(llm.tokenizer, READING, llm.max_positions)
    path = sample(tasks, tmp_path, selection="pool")
    _, items = read_items(path, tasks, "test", template, 4, ["t"])
    together = score_items(llm, build(llm, "vanilla-icl"), items)
    assert {len(item.demonstrations) for item in items} == {0, 4}
    for item, scores in zip(items, together, strict=True):
        if not item.demonstrations:
            [alone] = score_items(llm, build(llm, "zero-shot"), [item])
            assert scores == pytest.approx(alone, abs=1e-4)


def test_the_prediction_job_perturbs_and_groups(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Mend, "making_operations", lambda self, llm, trained, shown: len(shown) + 100
    )
    for name, width in (("llm", 16), ("distiller", 8)):
        llm = random_llm("gpt2", width)
        llm.model.save_pretrained(tmp_path / name)
        llm.tokenizer.save_pretrained(tmp_path / name)
    spec = RunSpec(
        llm=LLMSource(name="tiny", path=str(tmp_path / "llm")),
        method=MethodSource(name="mend", settings={"length": 2}),
        distiller=DistillerSource(path=str(tmp_path / "distiller"), **dict(DISTILLING)),
        reading=READING,
    )

    lengths, making = [], []

    def scores(name: str = "mend", length: int = 2, **predict) -> list[list[float]]:
        torch.manual_seed(3)  # of the placeholders and the projection, which nobody trained
        method = MethodSource(name=name, settings={"length": length} if name == "mend" else {})
        run = spec.model_copy(update={"method": method})
        job = prediction(run, tasks=["t"], condition="shots=4", **predict)
        run_prediction(job, path, tasks, tmp_path / "predictions.parquet", None)
        table = pyarrow.parquet.read_table(tmp_path / "predictions.parquet")
        assert table.column_names[:4] == ["llm", "method", "variant", "condition"]
        assert set(table["condition"].to_pylist()) == {"shots=4"}
        lengths.append(set(table["context_length"].to_pylist()))
        making.append(table["making_flops"].to_pylist())
        return table["scores"].to_pylist()

    path = sample(tasks, tmp_path)
    plain = scores()
    assert scores() == plain
    assert scores(group=4) == plain
    assert lengths == [{2}] * 3
    different = [scores(group=2), scores(group=1)]
    assert lengths[3:] == [{4}, {8}]
    # As many tokens in one, two and four groups.
    assert making[3:5] == [[each + more for each in making[0]] for more in (100, 300)]
    different += [scores(perturbation=kind, seed=0) for kind in ("no-label", "wrong-label")]
    for number, found in enumerate(different):
        assert found not in [plain, *different[:number]]
    assert scores(perturbation="wrong-label", seed=1) != different[-1]
    with pytest.raises(UserError, match="group: vanilla-icl does not distil"):
        scores("vanilla-icl", group=2)
    # The tiny LLM has 96 positions: four groups of 23 vectors, and then a query of three tokens.
    scores(length=22, group=1)
    with pytest.raises(UserError, match="test row 0 of seed 13: 92 vectors, a query of 3 tokens"):
        scores(length=23, group=1)
