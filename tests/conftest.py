"""What all tests need of the process that runs them."""

from __future__ import annotations

import signal

# A shell ignores SIGINT for what it starts in the background, and that is inherited: without this
# line the jobs that tests start would never see the Ctrl-C that tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
