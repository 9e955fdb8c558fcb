"""`python -m mend`."""

import sys

from mend.warm import run_warm

status = run_warm(sys.argv[1:])
if status is None:
    from mend.cli import main

    status = main()
sys.exit(status)
