"""What every command does before its own work."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from helpers.fuzzing import fuzzed, within
from hypothesis import given
from hypothesis import strategies as st

from mend import cli
from mend.progress import logger


def table5(folder: Path) -> list[str]:
    """Return a call of the command table5, without its --spec."""
    outputs = zip(("csv", "parquet", "html"), "abc", strict=True)
    return ["table5", *(part for k, v in outputs for part in (f"--{k}", str(folder / v)))]


def test_bad_input_is_one_line_and_exit_status_2(tmp_path: Path, caplog) -> None:
    assert cli.main([*table5(tmp_path), "--spec", "absent.json"]) == 2
    assert caplog.record_tuples == [
        ("mend", logging.ERROR, "error: absent.json: no such file (--spec)")
    ]


@pytest.mark.parametrize("log", [True, False])
def test_an_unexpected_error_is_one_line_that_names_the_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog, log: bool
) -> None:
    def fail(path, kind) -> None:
        raise ZeroDivisionError("by\nnothing")

    monkeypatch.setattr(cli, "read_spec", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    spec = tmp_path / "some.json"
    spec.write_text("{}")
    options = ["--log", str(tmp_path / "logs/job.log")] if log else []
    assert cli.main([*table5(tmp_path), "--spec", str(spec), *options]) == 1
    (line,) = caplog.messages
    assert line.startswith(
        "error: unexpected ZeroDivisionError: by; this is a fault of the program"
    )
    (saved,) = (tmp_path / ("logs" if log else "temporary")).glob("*.traceback")
    assert str(saved) in line
    assert "in fail\n" in saved.read_text()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "main memory ran out: run fewer jobs"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "main memory ran out"),
        (torch.OutOfMemoryError("CUDA out of memory"), "the GPU's memory ran out: choose"),
        (RuntimeError("CUDA error: unspecified launch failure"), "the GPU was lost or failed"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: make room"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "no permission: choose"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open: raise"),
        (ConnectionResetError(), "the network was interrupted: start again"),
        (TimeoutError(), "the network was interrupted: start again"),
    ],
)
def test_what_is_nobodys_mistake_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog, error: Exception, told: str
) -> None:
    def fail(path, kind) -> None:
        raise error

    monkeypatch.setattr(cli, "read_spec", fail)
    spec = tmp_path / "some.json"
    spec.write_text("{}")
    assert cli.main([*table5(tmp_path), "--spec", str(spec)]) == 2
    (line,) = caplog.messages
    assert line.startswith(f"error: {told}")
    assert "\n" not in line


def test_help_lists_every_command_once_in_groups(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    places = [text.index(f"{group}:") for group in cli.GROUPS]
    assert places == sorted(places)
    assert [text.count(f"\n  {name} ") for name in WRITES] == [1] * len(WRITES)
    assert places[0] < text.index("\n  init ") < places[1] < text.index("\n  distill ") < places[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_shells_complete_every_command(capsys, shell: str) -> None:
    assert cli.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in WRITES)
    if shell == "bash":
        checked = subprocess.run(
            ["bash", "-c", f"{text}\ncomplete -p mend"], capture_output=True, text=True, check=False
        )
        assert "mend" in checked.stdout, checked.stderr


def test_a_plan_takes_targets_after_files_and_is_json_where_a_machine_reads(
    capsys, caplog, tmp_path: Path
) -> None:
    root = Path(cli.__file__).parents[1]
    (tmp_path / "more.yaml").write_text("results: elsewhere\n")
    files = ["--configfile", str(root / "config.yaml"), "--configfile", str(tmp_path / "more.yaml")]
    assert cli.main(["plan", *files, "table2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["targets"] == ["table2"]
    assert found["total"]["seconds"] >= max(row["seconds"] for row in found["rows"]) > 0
    assert cli.main(["plan", *files[:2], "tabel2"]) == 2
    assert "tabel2 is neither a study nor a figure" in caplog.text


def test_a_reader_that_has_gone_is_one_line() -> None:
    command = f"set -o pipefail; {sys.executable} -m mend plan --configfile config.yaml | true"
    root = Path(cli.__file__).parents[1]
    ended = subprocess.run(
        ["bash", "-c", command], cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    lines = [line for line in ended.stderr.splitlines() if "error" in line.lower()]
    # Whether the pipe is closed before or after the text is in it is a matter of time.
    assert "Traceback" not in ended.stderr
    assert all("has ended before it was all written" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["nothing"], "invalid choice: 'nothing'"),
        (["train", "--spec", ""], "argument --spec: '' names no file"),
        (["train", "--spec", "a\0b"], "names no file"),
        (["train", "--spec", "a\udcff"], "names no file"),
        *(
            (["train", "--spec", "s", "--output", "o", "--threads", number], "--threads: '")
            for number in ("0", "-1", "1.5", "1e3", str(10**9), "9" * 30, "nan", "")
        ),
        (["train", "--spec", "s", "--output", "o", "--processes", "0"], "--processes: '0'"),
        (["pocket-models", "--output", "o", "--steps", "0"], "--steps: '0'"),
    ],
)
def test_wrong_arguments_are_one_line(caplog, arguments: list[str], told: str) -> None:
    assert cli.main(arguments) == 2
    (line,) = caplog.messages
    assert told in line
    assert "\n" not in line


WRITES = {
    name: sub.get_default("writes")
    for name, sub in cli.parser()._subparsers._group_actions[0].choices.items()  # noqa: SLF001
}
"""The outputs of each command, and their forms."""


def arguments_of(command: str, folder: Path, **outputs: Path) -> list[str]:
    """Return a call of a command whose inputs are empty files and folders."""
    sub = cli.parser()._subparsers._group_actions[0].choices[command]  # noqa: SLF001
    arguments = [command]
    for action in sub._actions:  # noqa: SLF001
        name = action.dest
        if name in sub.get_default("writes"):
            if action.required or name in outputs:
                arguments += [f"--{name}", str(outputs.get(name, folder / f"out-{name}"))]
        elif action.required and action.option_strings:
            value = folder / f"in-{name.replace('_', '-')}"
            if name in sub.get_default("read_folders"):
                value.mkdir()
            elif name != "split":
                value.write_text("{}")
            arguments += [f"--{name}", "test" if name == "split" else str(value)]
        elif not action.option_strings and action.nargs is None:
            arguments.append(action.choices[0] if action.choices else str(folder / f"in-{name}"))
    return arguments


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """Return what is in a folder: contents of files, and where links lead."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def others(folder: Path, kind: str, name: str) -> Path:
    """Make what a user has at a path; return the path."""
    path = folder / name
    if kind == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("years of work")
    elif kind == "file":
        path.write_text("years of work")
    elif kind == "link":
        path.symlink_to(others(folder, "folder", "real"))
    elif kind == "link to a file":
        path.symlink_to(others(folder, "file", "real"))
    elif kind == "dangling link":
        path.symlink_to(folder / "nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "table of the user's":
        pyarrow.parquet.write_table(pyarrow.table({"mine": [1]}), path)
    return path


KINDS = ["folder", "file", "link", "link to a file", "dangling link", "pipe", "table of the user's"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", sorted(WRITES))
def test_no_command_touches_what_it_did_not_make(
    tmp_path: Path, caplog, command: str, kind: str
) -> None:
    for output, form in WRITES[command].items():
        if form == "models" and kind in ("folder", "link"):
            continue  # models are folders below it, beside whatever is there
        folder = tmp_path / output
        folder.mkdir()
        arguments = arguments_of(command, folder, **{output: others(folder, kind, "mine")})
        before = {name: content for name, content in tree(folder).items() if name != "mine"}
        status = (folder / "mine").lstat()
        caplog.clear()
        assert cli.main(arguments) == 2
        (line,) = caplog.messages
        assert f"{folder}/mine" in line
        assert {name: c for name, c in tree(folder).items() if name != "mine"} == before
        assert (folder / "mine").lstat() == status


@pytest.mark.parametrize("place", ["/", ".", "..", "in-spec", "text/below", "n" * 300])
@pytest.mark.parametrize("command", sorted(name for name in WRITES if "output" in WRITES[name]))
def test_outputs_are_new_names_in_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog, command: str, place: str
) -> None:
    (tmp_path / "text").write_text("mine")
    monkeypatch.chdir(tmp_path)
    arguments = arguments_of(command, Path(), output=Path(place))
    (tmp_path / "in-spec").write_text("{}")
    before = tree(tmp_path)
    assert cli.main(arguments) == 2
    assert len(caplog.messages) == 1
    assert tree(tmp_path) == before


def test_an_output_cannot_hold_an_input(tmp_path: Path, caplog) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "spec.json").write_text("{}")
    assert cli.main(["pocket-world", "--spec", f"{data}/spec.json", "--output", str(data)]) == 2
    assert "an output cannot be or hold an input" in caplog.text
    assert (data / "spec.json").read_text() == "{}"


def test_what_a_command_made_it_may_make_again(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text('{"seed": 0, "documents": 3, "wrong_answers": 0.0}')
    call = ["pocket-world", "--spec", str(spec), "--output", str(tmp_path / "world")]
    call += ["--log", str(tmp_path / "log")]
    assert [cli.main(call), cli.main(call)] == [0, 0]
    runs = [{"llm": "l", "method": "mend", "stage": "finetune", "settings": {"steps": 1}}]
    spec.write_text(json.dumps({"command": "c", "seed": 0, "runs": runs}))
    call = [*table5(tmp_path), "--spec", str(spec)]
    assert [cli.main(call), cli.main(call)] == [0, 0]
    (tmp_path / "a").write_text("my own notes")
    assert cli.main(call) == 2
    assert (tmp_path / "a").read_text() == "my own notes"


@pytest.mark.parametrize("kind", ["absent", "folder", "pipe", "dangling link", "loop"])
@pytest.mark.parametrize("command", sorted(name for name in WRITES))
def test_every_input_is_there_before_anything_starts(
    tmp_path: Path, caplog, command: str, kind: str
) -> None:
    sub = cli.parser()._subparsers._group_actions[0].choices[command]  # noqa: SLF001
    arguments = arguments_of(command, tmp_path)
    for name in sub.get_default("reads"):
        path = tmp_path / f"bad-{name}"
        if kind == "loop":
            path.symlink_to(path)
        elif kind != "absent":
            others(tmp_path, kind, path.name)
        caplog.clear()
        assert cli.main([*arguments, f"--{name}", str(path)]) == 2
        (line,) = caplog.messages
        assert f"bad-{name}: " in line
        path.unlink(missing_ok=True) if not path.is_dir() else shutil.rmtree(path)
    for name in sub.get_default("read_folders"):
        caplog.clear()
        assert cli.main([*arguments, f"--{name}", str(tmp_path / "none")]) == 2
        assert f"no such folder (--{name})" in caplog.text


ODD = ["", ".", "..", "~", "{x}", "-1", "a\0b", "x" * 300, "y/" * 3000, "nowhere", "-", "*"]
ODD += ["\udcff", "thesis", "thesis/chapter", "link", "pipe", "text/x"]


@fuzzed(120)
@given(
    command=st.sampled_from(sorted(WRITES)),
    changes=st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from(["value", "drop", "add", "twice"])),
        min_size=1,
        max_size=3,
    ),
    values=st.lists(st.sampled_from(ODD) | st.text(max_size=5), min_size=3, max_size=3),
)
def test_calls_that_are_made_up_are_refused_in_one_line_and_touch_nothing(
    tmp_path_factory, command: str, changes: list[tuple[int, str]], values: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("call")
    (folder / "thesis").mkdir()
    (folder / "thesis/chapter").write_text("years of work")
    (folder / "text").write_text("years of work")
    (folder / "link").symlink_to("thesis")
    os.mkfifo(folder / "pipe")
    arguments = arguments_of(command, folder)
    for (place, kind), value in zip(changes, values, strict=False):
        at = 1 + place % max(1, len(arguments) - 1)
        if kind == "value":
            arguments[at : at + 1] = [value]
        elif kind == "drop":
            del arguments[at : at + 1]
        elif kind == "add":
            arguments.insert(at, value)
        else:
            arguments += arguments[at : at + 2]
    needs_nothing = command in ("pocket-models", "init", "completion")
    if needs_nothing or "--help" in arguments or "-h" in arguments:
        return  # it would begin
    before, said = tree(folder), io.StringIO()
    handler = logging.StreamHandler(said)
    logger.addHandler(handler)
    current = Path.cwd()
    os.chdir(folder)
    try:
        with within(60):
            status = cli.main(arguments)
    finally:
        os.chdir(current)
        logger.removeHandler(handler)
    (line,) = said.getvalue().splitlines()
    assert (status, line[:7]) == (2, "error: "), line
    assert "unexpected" not in line
    assert tree(folder) == before
