"""What every command does before its own work."""

from __future__ import annotations

import pytest

from mend import cli
from mend.errors import UserError


def test_bad_input_is_one_line_and_exit_status_2(capsys, tmp_path) -> None:
    status = cli.main(
        ["table5", "--spec", "absent.json", "--csv", "a", "--parquet", "b", "--html", "c"]
    )
    assert status == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("error: absent.json: no such file")


def test_an_unexpected_error_is_not_hidden(monkeypatch) -> None:
    def fail(options) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "table5", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["table5", "--spec", "s", "--csv", "a", "--parquet", "b", "--html", "c"])
    assert not issubclass(ZeroDivisionError, UserError)
