"""`python -m spar` is the command line."""

import sys

from spar.cli import main

sys.exit(main())
