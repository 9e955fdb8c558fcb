"""`python -m mend`."""

import sys

from mend.cli import main

sys.exit(main())
