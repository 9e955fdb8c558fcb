"""What all typed settings have in common: strict, frozen, and without unknown keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from mend.atomic_io import read_json
from mend.errors import UserError

Text = Annotated[str, StringConstraints(min_length=1)]
Count = Annotated[int, Field(ge=1)]
"""A whole number from 1 on."""

Seed = Annotated[int, Field(ge=0)]


def _distinct(items: list) -> list:
    if len(items) > len({json.dumps(item, sort_keys=True) for item in items}):
        raise ValueError(f"{json.dumps(items)} holds something twice")
    return items


Distinct = AfterValidator(_distinct)
"""Of a list: no entry is there twice."""


class Settings(BaseModel):
    """Settings with types: what they do not know is an error, and nobody changes them later."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def subset(self, kind: type[S]) -> S:
        """Return those of these settings that another type has."""
        return kind(**{name: getattr(self, name) for name in kind.model_fields})


S = TypeVar("S", bound=Settings)


def read_spec(path: str | Path, kind: type[S]) -> S:
    """Read a job's specification.

    Raises UserError, naming the file and the first key that is wrong.
    """
    content: Any = read_json(path)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)} (the workflow writes it)") from None


def first_problem(error: ValidationError) -> str:
    """Return the first key that is wrong, and what is."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
