"""The one door for Parquet files that jobs read: other columns, types or damage are one line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mend.atomic_io import check_file
from mend.errors import UserError

if TYPE_CHECKING:
    import pyarrow

TEXT, NUMBER, REAL, YES_NO = "text", "whole number", "number", "yes or no"
"""Kinds of columns; [kind] is a list of such values."""

Kind = str | list[str]


def read_columns(
    path: str | Path,
    columns: Mapping[str, Kind],
    what: str,
    optional: Mapping[str, Kind] | None = None,
    may_be_empty: Collection[str] = (),
) -> pyarrow.Table:
    """Read some columns of a Parquet file, all of its rows.

    Args:
        path: the file.
        columns: each column's kind; its values must be of it, and none empty.
        what: what the file holds, in messages, such as "predictions".
        optional: columns that are read if they are there.
        may_be_empty: columns whose cells may be empty.

    Raises:
        UserError: naming the file, and the column that is absent or has other values.
    """
    import pyarrow
    import pyarrow.parquet

    check_file(path)
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            if missing := [name for name in columns if names.count(name) != 1]:
                raise UserError(f"{path}: {what} lack the columns {', '.join(missing)}")
            wanted = {
                **columns,
                **{k: v for k, v in (optional or {}).items() if names.count(k) == 1},
            }
            for name, kind in wanted.items():
                if not _is_of(file.schema_arrow.field(name).type, kind):
                    raise UserError(f"{path}: {what} have no {_name(kind)} in column {name}")
            table = file.read(columns=list(wanted))
    except (OSError, pyarrow.ArrowException) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"{path}: not a Parquet file of {what}, or damaged ({first})") from None
    for name in wanted:
        _check_values(table[name], f"{path}: column {name}", name in may_be_empty)
    return table


def _is_of(found: pyarrow.DataType, kind: Kind) -> bool:
    from pyarrow import types

    if isinstance(kind, list):
        return (types.is_list(found) or types.is_large_list(found)) and _is_of(
            found.value_type, kind[0]
        )
    return {
        TEXT: lambda: types.is_string(found) or types.is_large_string(found),
        NUMBER: lambda: types.is_integer(found),
        # A column without a single value has the type of nothing.
        REAL: lambda: types.is_floating(found) or types.is_integer(found) or types.is_null(found),
        YES_NO: lambda: types.is_boolean(found),
    }[kind]()


def _name(kind: Kind) -> str:
    return f"list of {kind[0]}s" if isinstance(kind, list) else kind


def _check_values(column: pyarrow.ChunkedArray, where: str, may_be_empty: bool) -> None:
    """Raise UserError for an empty cell, an empty item of a list, or text that is not UTF-8."""
    import pyarrow

    try:
        column.validate(full=True)
    except pyarrow.ArrowException:
        raise UserError(f"{where} is damaged (its text is not UTF-8); make it again") from None
    if column.null_count and not may_be_empty:
        raise UserError(f"{where} has empty cells")
    if hasattr(column.type, "value_type") and any(
        chunk.flatten().null_count for chunk in column.chunks
    ):
        raise UserError(f"{where} has lists with empty items")


def check_row_numbers(column: pyarrow.ChunkedArray, size: int, where: str) -> None:
    """Raise UserError unless all numbers of a column, or of its lists, are of 0 to `size` - 1."""
    from pyarrow import compute

    values = compute.list_flatten(column) if hasattr(column.type, "value_type") else column
    if len(values):
        found = compute.min_max(values).as_py()
        if found["min"] < 0 or found["max"] >= size:
            wrong = found["min"] if found["min"] < 0 else found["max"]
            raise UserError(
                f"{where} names row {wrong}, and there are {size}; the rows changed after the file "
                "was made: make it again"
            )
