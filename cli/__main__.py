"""`python -m hsi_fuse.cli`."""

import sys

from .app import main

sys.exit(main())
