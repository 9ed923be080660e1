"""``python -m stimulative``."""

import sys

from stimulative.cli import main

if __name__ == "__main__":
    sys.exit(main())
