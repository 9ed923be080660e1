"""``python -m fuzz``: try all inputs, print what came of them."""

import sys

from suite import Suite

from fuzz.judging import SECONDS
from fuzz.kinds import kinds, prepare

SUITE = Suite(
    name="fuzz",
    about="Strange inputs, drawn from a seed: each is taken, or refused with a message, in a moment.",
    counts={name: count for name, (_, count) in kinds().items()},
    prepare=prepare,
    fine=("taken", "refused"),
    faulty=("traceback", "hang", "wrong"),
    patience=3 * SECONDS,
)

if __name__ == "__main__":
    sys.exit(SUITE.main())
