"""What every command does before its own work."""

from __future__ import annotations

import logging

import pytest

from mend import cli

TABLE5 = ["table5", "--csv", "a", "--parquet", "b", "--html", "c", "--spec"]


def test_bad_input_is_one_line_and_exit_status_2(caplog) -> None:
    assert cli.main([*TABLE5, "absent.json"]) == 2
    assert caplog.record_tuples == [("mend", logging.ERROR, "error: absent.json: no such file")]


def test_an_unexpected_error_is_not_hidden(monkeypatch) -> None:
    def fail(path, kind) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "read_spec", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main([*TABLE5, "some.json"])
