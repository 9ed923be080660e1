"""What a step of training costs beside what it computes: nothing is copied, walked through or launched for nothing."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from nets import PreActivationNet, SequentialNet, images, randomised
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from stimulative import unravel
from stimulative.errors import UsageError
from stimulative.methods import METHODS
from stimulative.residual import map_tensors, tensors_in

Y = torch.tensor([0, 1, 2, 0])


class Launched(TorchDispatchMode):
    """Counts the operations that PyTorch carries out, by name."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def gradients(network, *, copies, schedule="joint", subnet="1-1"):
    """The gradients of a step in which all that a departing subnet is handed is copied, or what has to be."""
    network.wiring.observed.writes = copies
    method = METHODS["stimulative"](network, schedule=schedule).train()
    method.zero_grad()
    method.backward(images(), Y, [subnet])
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_nothing_is_copied_where_nothing_writes(schedule):
    network = unravel(randomised(SequentialNet()), images())
    method = METHODS["stimulative"](network, schedule=schedule).train()
    method.backward(images(), Y, ["1-1"])
    with Launched() as launched:
        method.backward(images(), Y, ["1-1"])
    assert "aten::clone" not in launched.counts
    assert network.wiring.overwritten == frozenset()
    torch.testing.assert_close(
        gradients(network, copies=False, schedule=schedule), gradients(network, copies=True, schedule=schedule)
    )


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_what_blocks_write_into_is_copied(schedule):
    network = unravel(randomised(PreActivationNet()), images())
    assert network.wiring.overwritten
    method = METHODS["stimulative"](network, schedule=schedule).train()
    with Launched() as launched:
        method.backward(images(), Y, ["1"])
    assert launched.counts["aten::clone"]


class LaterWriting(nn.Module):
    """A block that writes into its input in training mode alone, by no module of PyTorch's."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        if self.training:
            x.mul_(2.0)
        return x + self.inner(x)


class LaterWritingNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(192, 6)
        self.blocks = nn.Sequential(*[LaterWriting() for _ in range(3)])
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x.flatten(1))))


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize("subnet", ["0", "1"])
def test_a_block_that_writes_in_training_mode_alone_is_noticed_in_the_first_step(schedule, subnet):
    model = randomised(LaterWritingNet())
    network = unravel(model, images())
    assert not network.wiring.writers
    METHODS["stimulative"](network, schedule=schedule).train().backward(images(), Y, [subnet])
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()

    def plain(kept):
        x = model.stem(images().flatten(1))
        for block in kept:
            x = 2 * x + block.inner(2 * x)
        return model.head(x)

    main, small = plain([*model.blocks]), plain([*model.blocks][: int(subnet)])
    target = main.detach().log_softmax(-1)
    divergence = F.kl_div(small.log_softmax(-1), target, reduction="batchmean", log_target=True)
    (F.cross_entropy(main, Y) + divergence).backward()
    torch.testing.assert_close(found, [parameter.grad for parameter in model.parameters()])


def test_norms_that_take_the_place_of_others_are_found():
    model = randomised(SequentialNet())
    network = unravel(model, images())
    method = METHODS["stimulative"](network).train()
    method.backward(images(), Y, ["1-1"])
    new = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    for (name, _), replacement in zip([*model.named_modules()], [*new.modules()], strict=True):
        if isinstance(replacement, nn.SyncBatchNorm):
            model.set_submodule(name, nn.BatchNorm2d(replacement.num_features).double())
    fresh = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    method.backward(images(), Y, ["1-1"])
    assert fresh and {int(norm.num_batches_tracked) for norm in fresh} == {1}


def test_layers_that_are_put_into_what_was_empty_are_found():
    model = randomised(SequentialNet())
    model.head = nn.Sequential(nn.Sequential(), model.head)
    network = unravel(model, images())
    method = METHODS["stimulative"](network).train()
    method.backward(images(), Y, ["1-1"])
    model.head[0].append(nn.BatchNorm1d(8).double())
    method.backward(images(), Y, ["1-1"])
    assert int(model.head[0][0].num_batches_tracked) == 1


def test_a_lean_step_goes_backward_in_the_formats_of_its_forward():
    class Precise(nn.Linear):
        def forward(self, x):
            with torch.autocast("cpu", enabled=False):
                return torch.sin(x.float() @ self.weight.float().T)

    torch.manual_seed(0)
    model = nn.Sequential(
        Precise(64, 64, bias=False), nn.Sequential(*[Residual(64) for _ in range(3)]), nn.Linear(64, 4)
    )
    x, y = torch.randn(4, 64), Y
    found = []
    for backward in (torch.autograd.backward, lambda loss: loss.backward()):
        method = METHODS["stimulative"](unravel(model, x), schedule="lean").train()
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            method.backward(x, y, ["1"], backward=backward)
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*found, rtol=0, atol=0)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return x + self.linear(x)


def test_a_container_that_is_compiled_between_steps_is_refused():
    model = randomised(SequentialNet())
    network = unravel(model, images())
    method = METHODS["stimulative"](network).train()
    method.backward(images(), Y, ["1-1"])
    model.compile(backend="eager")
    with pytest.raises(UsageError, match="compiled as a whole"):
        method.backward(images(), Y, ["1-1"])


_TENSORS = st.builds(lambda value: torch.full((2,), float(value)), st.integers(0, 9))
_LEAVES = st.one_of(st.none(), st.integers(), st.text(max_size=2), _TENSORS)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
        st.builds(lambda part: torch.return_types.max((part, part)), inner),
    ),
    max_leaves=8,
)


@given(_TREES)
def test_tensors_are_found_and_replaced_as_pytree_does_it(tree):
    wanted = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    assert [id(tensor) for tensor in tensors_in(tree)] == [id(tensor) for tensor in wanted]
    doubled, by_pytree = map_tensors(lambda x: x.sum(), tree), pytree.tree_map_only(Tensor, lambda x: x.sum(), tree)
    assert repr(doubled) == repr(by_pytree) and type(doubled) is type(by_pytree)
