"""``python -m stimulative``."""

import os
import sys

if __name__ == "__main__":
    if sys.path[0] in ("", os.getcwd()):  # where Python puts the current directory before its own library
        del sys.path[0]
    from stimulative.cli import main

    sys.exit(main())
