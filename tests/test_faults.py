"""Whatever happens to runs, none is lost, and nothing wrong is taken for right; ``make faults`` lets more happen."""

import signal

import pytest
from faults.command import Command, Faulty
from faults.kinds import ANY, prepare
from trials import tried


def test_runs_survive_what_happens_to_them():
    found = tried(prepare, ANY, 12, seed=1, lanes=1, patience=200)
    assert [one for one in found if one.end not in ("as without", "refused")] == []
    assert len({one.text.partition(":")[0] for one in found}) > 5


def test_what_goes_wrong_is_told_apart():
    def fail():
        raise KeyError("x")

    with pytest.raises(Faulty, match="KeyError") as told:
        Command("doctor", first=fail).wait()
    assert told.value.end == "traceback"
    with pytest.raises(Faulty, match="has not ended after 1 s") as told:
        Command("doctor", first=signal.pause).wait(1)
    assert told.value.end == "hang"
    assert Command("doctor --json").wait().status == 0
    assert Command("doctor --jason").wait().refused
