"""A number for code: it changes when a stage's code does, and not for comments or docstrings.

Snakemake reruns a job whose `params` changed, but does not look into imported modules. A rule
that has `params: code=code_hash("mend.training.loop")` reruns when `mend.training.loop`, or any
module of this package that it leads to, is changed.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(__file__).resolve().parent.name


def code_hash(*modules: str, root: Path = ROOT) -> str:
    """Return a hash of the syntax trees of the modules and of all they import from the package.

    modules: dotted names, such as "mend.training.loop". Imports within functions count; those under
    `if TYPE_CHECKING` do not, and neither do modules that are found at run time by their names.
    Raises ModuleNotFoundError if there is no such module.
    """
    digest = hashlib.sha256()
    for name in sorted(reached_modules(*modules, root=root)):
        digest.update(f"{name} {_tree_hash(_file(name, root))}\n".encode())
    return digest.hexdigest()[:16]


def reached_modules(*modules: str, root: Path = ROOT) -> set[str]:
    """Return the modules and all modules of the package that they lead to by imports."""
    reached: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        # Importing a.b runs a's __init__ first.
        parent = name.rpartition(".")[0]
        waiting += [*_imports(name, root), *([parent] if parent else [])]
    return reached


@cache
def _imports(name: str, root: Path) -> tuple[str, ...]:
    """Return the package's modules that a module imports itself."""
    file = _file(name, root)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = []
    for node in _running(_parse(file)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found.append(base)
            # `from a import b`: b may be a module or something that a defines.
            found += [f"{base}.{alias.name}" for alias in node.names]
    return tuple(
        other for other in found if other.split(".")[0] == PACKAGE and _exists(other, root)
    )


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a syntax tree without the bodies of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _running(child)


def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


@cache
def _tree_hash(file: Path) -> str:
    """Hash a module's syntax tree without docstrings (comments are not in it anyway)."""
    tree = _parse(file)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _exists(name: str, root: Path) -> bool:
    try:
        _file(name, root)
    except ModuleNotFoundError:
        return False
    return True


@cache
def _file(name: str, root: Path) -> Path:
    place = root.joinpath(*name.split("."))
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if file.is_file():
            return file
    raise ModuleNotFoundError(f"no module {name} under {root}")
