"""The library from the command line: distill, score, generate."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from helpers.trained import trained_run

from mend import Context, ContextMethod, cli

ROWS = [("a word", "yes"), ("no word", "no"), ("a name", "yes")]
QUERIES = ["one word", "two names", "three"]


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory) -> Path:
    """A folder with a trained method (run), demonstrations and queries."""
    folder = tmp_path_factory.mktemp("cli")
    trained_run(data, folder)
    with (folder / "demonstrations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("input", "output"), *ROWS])
    lines = [json.dumps({"input": query}) + "\n" for query in QUERIES]
    (folder / "queries.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def context(folder: Path) -> str:
    """The folder of the context that the command line made."""
    call = ["distill", str(folder / "run"), "--demonstrations", f"{folder}/demonstrations.csv"]
    call += ["--output", str(folder / "context")]
    assert [cli.main(call), cli.main(call)] == [0, 0]  # what it made it may make again
    return str(folder / "context")


def test_scores_and_texts_are_the_librarys(folder: Path, context: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr(cli, "AT_ONCE", 2)
    method = ContextMethod.from_pretrained(folder / "run")
    loaded = Context.from_pretrained(context, method.llm)
    expected = method.score(method.distill(ROWS), QUERIES, ["yes", "no"])
    call = ["score", context, "--queries", f"{folder}/queries.jsonl", "--options", "yes", "no"]
    assert cli.main([*call, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["query"] for row in rows] == QUERIES
    for row, scores in zip(rows, expected, strict=True):
        assert list(row["scores"].values()) == pytest.approx(scores, abs=1e-5)
        assert row["best"] == ["yes", "no"][scores.index(max(scores))]
    assert cli.main(["generate", context, "--query", *QUERIES, "--max-new-tokens", "3"]) == 0
    texts = method.generate(loaded, QUERIES, max_new_tokens=3)
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in texts)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["distill", "RUN", "--demonstrations", "empty.csv"], "empty.csv: it has no rows"),
        (["distill", "RUN", "--demonstrations", "other.csv"], "other.csv, line 2: it has no text"),
        (["distill", "RUN", "--demonstrations", "note.txt"], "note.txt: its name ends in none of"),
        (["distill", "nowhere", "--demonstrations", "demonstrations.csv"], "nowhere: there is no"),
        (["score", "CONTEXT", "--options", "yes"], "give queries: either --query"),
        (["score", "CONTEXT", "--query", "a"], "required: --options"),
        (["score", "RUN", "--query", "a", "--options", "yes", "no"], "run"),
        (["generate", "CONTEXT", "--query", "a", "--max-new-tokens", "0"], "--max-new-tokens: '0'"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, context: str, caplog, monkeypatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(folder)
    Path("empty.csv").write_text("input,output\n")
    Path("other.csv").write_text("input,label\na,b\n")
    Path("note.txt").write_text("a note")
    named = {"RUN": "run", "CONTEXT": context}
    output = ["--output", "made"] if arguments[0] == "distill" else []
    assert cli.main([named.get(part, part) for part in arguments] + output) == 2
    (line,) = caplog.messages
    assert told in line
    assert not Path("made").exists()
