"""Telling a person what a job is doing: on the terminal and in the job's log."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

logger = logging.getLogger("mend")


class LogFile(logging.FileHandler):
    """A log that a full disk does not turn into tracebacks: what cannot be written is left out."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave it: standard error has the line, too."""


def start_logging(log: str | Path | None = None) -> None:
    """Send progress to standard error and, if given, to the file `log`.

    Of several processes that train together the first speaks for all; the others tell errors.
    """
    first = os.environ.get("RANK", "0") == "0"
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log and first:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(LogFile(log, mode="w", encoding="utf-8", errors="backslashreplace"))
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=handlers)
    logger.setLevel(logging.INFO if first else logging.ERROR)


class Progress:
    """Says how far a loop is, at most every `every` seconds."""

    def __init__(self, what: str, total: int, start: int = 0, every: float = 10.0) -> None:
        """`what` names the loop; `total` is its length, of which `start` are done already."""
        self.what, self.total, self.first, self.every = what, total, start, every
        self.began = self.said = time.monotonic()

    def update(self, done: int, detail: str = "") -> None:
        """Report that `done` of the total are done, if it is time to."""
        now = time.monotonic()
        if now - self.said < self.every or done <= self.first:
            return
        self.said = now
        left = (now - self.began) / (done - self.first) * (self.total - done)
        logger.info(
            "%s: %d of %d%s, about %s left",
            self.what,
            done,
            self.total,
            f", {detail}" if detail else "",
            time.strftime("%H:%M:%S", time.gmtime(left)),
        )
