"""Small text files that a configuration names, read without trust in what they are."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from mend.errors import UserError

LARGEST = 50_000_000
"""Bytes of the largest file that is read while the workflow is parsed."""


def read_small_text(path: str | Path, what: str = "file") -> str:
    """Return the text of a file in UTF-8; what: it is called in messages.

    Raises UserError, naming it, for what is no file (a folder, a device, a pipe) or too large, and
    where it cannot be read.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a {what}, but a folder, a device or a pipe")
        if status.st_size > LARGEST:
            raise UserError(f"{path}: {status.st_size:,} bytes, too large to be a {what}")
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:  # of a path or its content
        raise UserError(f"{path}: not a {what} in UTF-8") from None


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, of which others take the last without a word."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        """Return the mapping of a node."""
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value[:80]} is there twice; leave one out",
                        problem_mark=key.start_mark,
                    )
                if isinstance(key, yaml.ScalarNode):
                    seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> Any:
    """Return what a file of YAML holds.

    Raises UserError, naming the file and line, as `read_small_text`, and for what is no YAML or has
    a key twice.
    """
    text = read_small_text(path)
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: cannot be read: {error.problem}") from None
    except (ValueError, TypeError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read: {problem}") from None
    except RecursionError:
        raise UserError(f"{path}: cannot be read: it is nested too deeply") from None
