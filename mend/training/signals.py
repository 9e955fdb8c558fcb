"""Stopping a job when a signal asks for it: a batch system's time limit, or a person."""

from __future__ import annotations

import signal
from types import FrameType

#: SIGTERM: `kill` and SLURM's time limit; SIGINT: Ctrl-C; SIGUSR1: SLURM's `--signal`.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stopped(Exception):
    """A signal ended a job, which has saved where it was."""

    def __init__(self, number: int, message: str) -> None:
        """number: the signal's; message: what a person is told."""
        super().__init__(message)
        self.number = number

    @property
    def exit_status(self) -> int:
        """What a shell calls a process that this signal ended: 143 for SIGTERM."""
        return 128 + self.number


class StopSignals:
    """While it is entered, a signal is noted in `received` (0 before) and the job goes on.

    The job checks `received` and ends by itself. A second Ctrl-C ends it at once.
    Signals can be noted by a program's main thread only.
    """

    def __init__(self) -> None:
        """Note nothing yet."""
        self.received = 0

    def __enter__(self) -> StopSignals:
        """Take the signals over."""
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # A batch system sends SIGTERM more than once; a person who presses twice is in a hurry.
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number
