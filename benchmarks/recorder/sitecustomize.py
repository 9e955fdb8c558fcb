"""Notes what each Python process of a workflow has computed, and how much of it was importing.

Python runs this file at its start, before all else, where its folder is on PYTHONPATH:
`overhead.py` puts it there, and reads what is written to the folder MEND_PROCESS_RECORDS.
"""

import atexit
import builtins
import importlib
import json
import os
import sys
import time
from _thread import get_ident

FOLDER = os.environ.get("MEND_PROCESS_RECORDS")


class ImportClock:
    """Adds up the main thread's processor time within imports, each only once."""

    def __init__(self) -> None:
        """Start the clock of this process, or of a fork of it."""
        self.thread = get_ident()
        self.started = time.process_time()  # what the interpreter took until now
        self.seconds = 0.0
        self.running = False

    def timed(self, imports):
        """Return a function that imports as `imports` does, and is timed."""

        def timed_import(*arguments, **keywords):
            if self.running or get_ident() != self.thread:
                return imports(*arguments, **keywords)
            self.running = True
            began = time.thread_time()
            try:
                return imports(*arguments, **keywords)
            finally:
                self.seconds += time.thread_time() - began
                self.running = False

        return timed_import


def write_record(clock: ImportClock) -> None:
    """Write this process's numbers: seconds of processor time, at its end."""
    record = {
        "arguments": sys.argv,
        "seconds": time.process_time(),
        "start": clock.started,
        "imports": clock.seconds,
        # A process that only waits for a job that was started warm never gets as far.
        "runs_command": "mend.cli" in sys.modules and sys.argv[0].endswith("mend/__main__.py"),
    }
    with open(f"{FOLDER}/{os.getpid()}-{time.time_ns()}.json", "w", encoding="utf-8") as file:
        json.dump(record, file)


if FOLDER:
    clock = ImportClock()
    builtins.__import__ = clock.timed(builtins.__import__)
    importlib.import_module = clock.timed(importlib.import_module)
    os.register_at_fork(after_in_child=clock.__init__)
    atexit.register(write_record, clock)
