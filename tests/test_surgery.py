"""Writing into other modules' slots: in one file, and what that file does."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import stimulative
from stimulative.residual import put_children, put_statistics
from stimulative.residual.access.slots import (
    RUNNING,
    Exchange,
    buffers_kept,
    exchanged_statistics,
    put_buffer,
    put_parameter,
    statistics_in,
    untrained_in,
)

SOURCES = Path(stimulative.__file__).parent
ALLOWED = SOURCES / "residual" / "access" / "slots.py"
SLOTS = {"_modules", "_parameters", "_buffers"}
CHANGING = {"update", "clear", "pop", "popitem", "setdefault", "move_to_end", "__setitem__", "__delitem__", "__ior__"}
# what only reads a mapping; any other function that gets one may write into it
READING = {
    "list",
    "tuple",
    "set",
    "frozenset",
    "dict",
    "len",
    "sorted",
    "any",
    "all",
    "enumerate",
    "iter",
    "zip",
    "bool",
}


def writes_into_slots(tree: ast.Module) -> Iterator[int]:
    """The lines that write into slots, or hand them to something that may."""
    names = {name for node in ast.walk(tree) for name in _bound_to_slots(node)}

    def is_slots(node: ast.AST | None) -> bool:
        if isinstance(node, ast.Attribute):
            return node.attr in SLOTS
        if isinstance(node, ast.Subscript):  # vars(module)["_modules"]
            return isinstance(node.slice, ast.Constant) and node.slice.value in SLOTS
        return isinstance(node, ast.Name) and node.id in names

    def is_written(target: ast.AST) -> bool:
        if isinstance(target, ast.Tuple | ast.List):
            return any(is_written(one) for one in target.elts)
        if isinstance(target, ast.Starred):
            return is_written(target.value)
        if isinstance(target, ast.Subscript) and is_slots(target.value):
            return True
        return is_slots(target) and not isinstance(target, ast.Name)

    for node in ast.walk(tree):
        targets: list[ast.AST] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = list(node.targets)
        elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.For | ast.comprehension):
            targets = [node.target]
            if isinstance(node, ast.AugAssign) and is_slots(node.target):
                yield node.lineno
        if any(is_written(target) for target in targets):
            yield getattr(node, "lineno", 0)
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr in CHANGING and is_slots(called.value):
            yield node.lineno
        reads = isinstance(called, ast.Name) and called.id in READING
        if not reads and any(is_slots(given) for given in [*node.args, *(keyword.value for keyword in node.keywords)]):
            yield node.lineno
        if isinstance(called, ast.Name) and called.id in ("setattr", "delattr") and len(node.args) > 1:
            key = node.args[1]
            if isinstance(key, ast.Constant) and key.value in SLOTS:
                yield node.lineno


def _bound_to_slots(node: ast.AST) -> Iterator[str]:
    """The names that a statement binds to slots, or to one of several of which some are slots."""
    if isinstance(node, ast.Assign):
        targets, values = node.targets, [node.value]
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        targets, values = [node.target], [node.value]
    elif isinstance(node, ast.For | ast.comprehension):  # over several slots; over one it binds keys
        targets, values = [node.target], []
        if isinstance(node.iter, ast.Tuple | ast.List):
            values = node.iter.elts
    else:
        return
    values = [one for value in values for one in (value.elts if isinstance(value, ast.Tuple) else [value])]
    if any(isinstance(one, ast.Attribute) and one.attr in SLOTS for one in values):
        for target in targets:
            for one in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                if isinstance(one, ast.Name):
                    yield one.id


def test_slots_are_written_in_one_file():
    files = sorted(SOURCES.rglob("*.py"))
    assert ALLOWED in files and len(files) > 100
    found = {
        f"{file.relative_to(SOURCES)}:{line}"
        for file in files
        if file != ALLOWED
        for line in writes_into_slots(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert not found, f"written into slots outside of {ALLOWED.relative_to(SOURCES)}"
    assert list(writes_into_slots(ast.parse(ALLOWED.read_text(encoding="utf-8")))), "the test sees what is written"


@pytest.mark.parametrize(
    "line",
    [
        "m._modules[k] = v",
        "m.inner._parameters[k] = v",
        "m._buffers = {}",
        "a, m._buffers[k] = 1, v",
        "m._buffers[k]: int = 1",
        "m._buffers |= other",
        "del m._modules[k]",
        "m._modules.clear()",
        "m._buffers.update(other)",
        "m._parameters.pop(k, None)",
        "m._parameters.setdefault(k, v)",
        "own = m._modules; own[k] = v",
        "own = m._modules; own.clear()",
        "own: dict = m._modules; own.update(other)",
        "for store in (m._parameters, m._buffers): store[k] = v",
        "for m._modules[k] in values: pass",
        "vars(m)['_modules'][k] = v",
        "m.__dict__['_buffers'] = {}",
        "setattr(m, '_modules', {})",
        "helper(m._modules, v)",
        "undo.append((1, 2)); put(slots=m._parameters)",
    ],
)
def test_every_way_to_write_into_slots_is_seen(line):
    assert list(writes_into_slots(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "keys = list(m._modules)",
        "copy = dict(m._buffers); copy[k] = v",
        "for key, value in m._parameters.items(): print(key, value)",
        "found = [k for k in m._buffers if k not in m._parameters]",
        "x = m._modules[k]; x.running_mean = v",
        "m._modules.get(k)",
        "for key in m._modules: found[key] = 1",
    ],
)
def test_reading_slots_is_no_writing(line):
    assert not list(writes_into_slots(ast.parse(line)))


def test_children_are_replaced_in_their_order():
    layers = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    first, relu, last = layers
    put_children(layers, {"b": last, "a": first})
    assert list(layers) == [last, first] and list(layers.state_dict()) == ["b.weight", "b.bias", "a.weight", "a.bias"]
    put_children(layers, layers._modules)
    assert list(layers) == [last, first], "they may be given as what they are"
    put_children(layers, {"0": relu})
    assert list(layers) == [relu]


def test_tensors_are_put_as_they_are():
    norm = nn.BatchNorm1d(3)
    gain, mean, var = nn.Parameter(torch.ones(2)), torch.ones(2), torch.full((2,), 4.0)
    put_parameter(norm, "weight", gain)
    put_buffer(norm, "num_batches_tracked", None)
    put_statistics(norm, {"running_mean": mean, "running_var": var})
    assert norm.weight is gain and norm.running_mean is mean and norm.num_batches_tracked is None
    assert statistics_in(norm, RUNNING) == {"running_mean": mean, "running_var": var}
    with pytest.raises(RuntimeError, match="stop"), exchanged_statistics({norm: dict.fromkeys(RUNNING)}):
        assert norm.running_mean is None and norm.running_var is None
        raise RuntimeError("stop")
    assert norm.running_mean is mean and norm.running_var is var


def test_statistics_may_be_parameters_and_plain_attributes():
    norm = nn.Module()
    norm.gain = nn.Parameter(torch.ones(2))
    norm.mean = nn.Parameter(torch.zeros(2), requires_grad=False)
    norm.var = torch.ones(2)
    norm.register_buffer("seen", torch.tensor(3))
    mean, var = norm.mean, norm.var
    assert untrained_in(norm).keys() == {"mean", "var", "seen"}
    with exchanged_statistics({norm: {"mean": torch.ones(2), "var": torch.zeros(2)}}):
        assert norm.mean.equal(torch.ones(2)) and not norm.mean.requires_grad and norm.var.equal(torch.zeros(2))
        assert "mean" in norm.state_dict()
    assert norm.mean is mean and norm.var is var


def test_buffers_come_back_with_their_values():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    before = {name: (value, value.clone()) for name, value in net.named_buffers()}
    with pytest.raises(RuntimeError, match="stop"), buffers_kept(net):
        net.train()(torch.randn(4, 3))
        net[0].running_mean = torch.ones(3)
        net[1].register_buffer("seen", torch.ones(1))
        raise RuntimeError("stop")
    after = dict(net.named_buffers())
    assert after.keys() == before.keys()
    assert all(after[name] is value and torch.equal(value, was) for name, (value, was) in before.items())


def test_an_exchange_is_undone():
    norm = nn.BatchNorm1d(4)
    weight, mean = norm.weight, norm.running_mean
    exchange = Exchange()
    exchange.attribute(norm, "num_features", 2)
    exchange.parameter(norm, "weight", weight[:2])
    exchange.parameter(norm, "weight", weight[:2] * 2)
    exchange.parameter(norm, "bias", norm.bias[:2])
    exchange.buffer(norm, "running_mean", mean[:2])
    exchange.buffer(norm, "running_var", norm.running_var[:2])
    norm(torch.randn(5, 2)).sum().backward()
    assert norm.num_features == 2 and weight.grad is not None and weight.grad[2:].eq(0).all()
    exchange.put_back()
    assert norm.weight is weight and norm.running_mean is mean and norm.num_features == 4
    exchange.put_back()
    assert norm.weight is weight, "there is nothing left to undo"
