"""``python -m faults``: make all trials, print what came of them."""

import sys

from suite import Suite

from faults.kinds import COUNTS, prepare

SUITE = Suite(
    name="faults",
    about="Faults at random moments, drawn from a seed, in commands that work on runs and studies.",
    counts=COUNTS,
    prepare=prepare,
    fine=("as without", "refused"),
    faulty=("lost", "wrong", "traceback", "hang", "left behind"),
    patience=400.0,
)

if __name__ == "__main__":
    sys.exit(SUITE.main())
