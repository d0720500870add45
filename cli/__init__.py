"""The command line. The only importer of click and rich; it computes nothing.

Modules of the library that need torch are imported inside the commands, so that `--help` answers at once.
"""

from .app import main

__all__ = ["main"]
