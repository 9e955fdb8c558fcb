"""What every command does before its own work."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from mend import cli

# Four blocks of 16 MB, as a forward pass makes and frees them: more than is kept without asking.
FAULTS = """
import ctypes, resource, sys
from mend.cli import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def pass_forward():
    blocks = [library.malloc(2**24) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, 2**24)
    for block in blocks:
        library.free(block)

pass_forward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    pass_forward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*arguments: str) -> int:
    command = [sys.executable, "-c", FAULTS, *arguments]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="GNU's C library alone has this")
def test_freed_memory_is_not_asked_for_again() -> None:
    assert 10 * page_faults("keep") < page_faults()


def test_other_c_libraries_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def __getattr__(self, name: str) -> None:
            raise AttributeError(name)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    cli.keep_freed_memory()
