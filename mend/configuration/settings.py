"""What all typed settings have in common: strict, frozen, bounded, and without unknown keys."""

from __future__ import annotations

import json
import os
import re
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

LARGEST_COUNT = 10**9

Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
"""A whole number from 1 on."""

Seed = Annotated[int, Field(ge=0, lt=2**31)]
"""As large as a column of seeds holds."""


def path_problem(path: str) -> str | None:
    """Return why the workflow cannot name a file or a folder so; None if it can."""
    if path != path.strip() or not path.isprintable():
        return "it has white space around it, or letters that cannot be seen"
    if "{" in path or "}" in path:
        return "it has braces, which the workflow reads as wildcards"
    if path.startswith("-"):
        return "it begins with a dash, as options do; write ./ before it"
    parts = path.split("/")
    if any(part.startswith("~") for part in parts):
        return "~ stands for nothing here; write the folder out"
    if len(path.encode()) > 1000 or any(len(part.encode()) > 255 for part in parts):
        return "it is too long: 255 bytes between two slashes, and 1000 in all, at most"
    return None


def _readable_path(path: str) -> str:
    if problem := path_problem(path):
        raise ValueError(problem)
    return path


PathText = Annotated[Text, AfterValidator(_readable_path)]
"""The path of a file or a folder, a pattern of paths, or a name on the Hugging Face hub."""

PACKAGE = Path(__file__).parents[1]


def package_path(path: str) -> str:
    """Return where a file or a folder is that a configuration names.

    path: what is not here, and begins with the name of this package, is looked for among the files
    that the installed package brings, such as mend/pocket/models/gpt2. All else stays as it is.
    """
    installed = PACKAGE.parent / path
    ours = path.startswith(f"{PACKAGE.name}/") and not os.path.lexists(path)
    return str(installed) if ours and installed.exists() else path


def package_name(path: str) -> str:
    """Return the name by which `package_path` finds a file of the package, or another path."""
    place = Path(path)
    inside = place.is_absolute() and place.is_relative_to(PACKAGE)
    return str(place.relative_to(PACKAGE.parent)) if inside else path


PackagePath = Annotated[PathText, AfterValidator(package_path)]
"""A path, of a file that this package brings also where there is no clone of it."""


def hub_name_problem(name: str) -> str | None:
    """Return why the Hugging Face hub can have nothing of a name; None if it can."""
    allowed = re.fullmatch(r"(\w[\w.-]{0,95}/)?\w([\w.-]{0,94}\w)?", name, re.ASCII)
    if allowed and not re.search(r"--|\.\.|\.git$", name):
        return None
    return "the hub's names are NAME or OWNER/NAME, of letters, digits, dots, _ and -"


def _hub_name(name: str) -> str:
    if problem := hub_name_problem(name):
        raise ValueError(problem)
    return name


HubName = Annotated[str, AfterValidator(_hub_name)]
"""The name of a model or a data set on the Hugging Face hub."""

Revision = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
"""A commit, tag or branch on the hub."""


def _distinct(items: list) -> list:
    if len(items) > len({json.dumps(item, sort_keys=True) for item in items}):
        raise ValueError("it holds something twice")
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
    problem = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, first['loc']))}: {problem[:1].lower()}{problem[1:]}"
