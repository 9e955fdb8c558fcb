"""The code hash changes with the code that a stage depends on, and with nothing else."""

from __future__ import annotations

import pytest

from mend import code_hash as module
from mend.code_hash import code_hash, reached_modules

FILES = {
    "__init__.py": '"""The package."""\n',
    "stage.py": (
        '"""A stage."""\n'
        "from typing import TYPE_CHECKING\n"
        "from mend.helper import help_out\n"
        "if TYPE_CHECKING:\n"
        "    from mend.types import Kind\n"
        "def run():\n"
        '    """Run."""\n'
        "    from .deep import lazy\n"
        "    return help_out() + lazy.VALUE  # a comment\n"
    ),
    "helper.py": "def help_out():\n    return 1\n",
    "types.py": "class Kind: ...\n",
    "deep/__init__.py": "",
    "deep/lazy.py": "import mend.bottom\nVALUE = 2\n",
    "bottom.py": "import json\n",
    "elsewhere.py": "ELSE = 1\n",
}


@pytest.fixture
def package(tmp_path):
    """Write a small package named as this one; files are read afresh at each hash."""
    for name, text in FILES.items():
        path = tmp_path / "mend" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def change(name, old, new):
        path = tmp_path / "mend" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def hashed(*modules):
        for cached in (module._imports, module._tree_hash, module._file):
            cached.cache_clear()
        return code_hash(*(modules or ["mend.stage"]), root=tmp_path)

    package = type("Package", (), {"root": tmp_path, "change": staticmethod(change)})
    package.hash = staticmethod(hashed)
    yield package
    for cached in (module._imports, module._tree_hash, module._file):
        cached.cache_clear()


def test_it_follows_lazy_and_relative_imports_but_not_those_for_types(package) -> None:
    reached = reached_modules("mend.stage", root=package.root)
    assert reached == {
        *("mend", "mend.stage", "mend.helper", "mend.deep", "mend.deep.lazy", "mend.bottom")
    }


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("stage.py", "# a comment", "# another comment"),
        ("stage.py", '"""Run."""', '"""Run it, and say how."""'),
        ("stage.py", '    """Run."""\n', ""),
        ("stage.py", "help_out() + lazy", "help_out()  +  lazy"),
        ("__init__.py", "The package.", "The whole package."),
        ("elsewhere.py", "ELSE = 1", "ELSE = 2"),
        ("types.py", "Kind", "Sort"),
    ],
)
def test_what_does_not_change_the_code_does_not_change_the_hash(package, name, old, new) -> None:
    before = package.hash()
    package.change(name, old, new)
    assert package.hash() == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("stage.py", "help_out() +", "help_out() -"),
        ("helper.py", "return 1", "return 2"),
        ("deep/lazy.py", "VALUE = 2", "VALUE = 3"),
        ("bottom.py", "import json", "import csv"),
    ],
)
def test_code_that_the_stage_leads_to_changes_the_hash(package, name, old, new) -> None:
    before = package.hash()
    package.change(name, old, new)
    assert package.hash() != before


def test_hashes_of_different_stages_differ(package) -> None:
    assert package.hash("mend.helper") != package.hash("mend.bottom")


def test_a_stage_that_is_not_there_is_an_error(package) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"mend\.nothing"):
        package.hash("mend.nothing")


def test_the_distiller_is_found_where_a_method_uses_it() -> None:
    assert "mend.models.distiller" in reached_modules("mend.methods.hypertuning")
    assert "mend.models.distiller" not in reached_modules("mend.methods.prompt_tuning")
