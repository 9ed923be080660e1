"""Whatever is given is taken or refused, in a moment and with a message; ``make fuzz`` tries more."""

import random
import shlex

import pytest
from fuzz.judging import judge
from fuzz.kinds import kinds
from fuzz.words import COMMANDS, Words


@pytest.mark.parametrize("kind", kinds())
def test_strange_inputs_are_taken_or_refused(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, ends = kinds()[kind][0](tmp_path), []
    for number in range(150 if kind == "subnets" else 40):
        text, do = made.input(random.Random(f"{kind} short {number}"))
        outcome = judge(do)
        assert outcome.end in ("taken", "refused"), f"{outcome.end}: {text}\n{outcome.details}"
        ends.append(outcome.end)
    assert "taken" in ends and "refused" in ends


def test_commands_are_taken_before_they_are_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = Words(tmp_path)
    ends = {line: judge(lambda line=line: words._command(shlex.split(line))) for line in COMMANDS}
    assert {line: outcome.details for line, outcome in ends.items() if outcome.end != "taken"} == {}


def test_what_goes_wrong_is_told_apart():
    def fail():
        raise KeyError("x")

    def write_over():
        raise MemoryError

    assert judge(fail).end == judge(write_over).end == "traceback"
    assert judge(lambda: None).end == "taken"
