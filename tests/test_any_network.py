"""Public networks from all over the field: found, run at any depth, trained and taken apart like any other."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from public_nets import NETS, Net, r3d
from torch import Tensor, nn
from torchvision.models.video import r3d_18

import stimulative
from stimulative.deploy import save_family
from stimulative.residual import Input, ResidualNetwork, Subnet, layers_with_statistics


def made(net: Net) -> nn.Module:
    """The net in double precision, all parameters and statistics moved away from where they start."""
    torch.manual_seed(0)
    model = net.make().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                0.2 * torch.randn_like(parameter) / max(1, parameter[0].numel() if parameter.dim() else 1) ** 0.5
            )
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
    return model


def subnets(network: ResidualNetwork) -> list[Subnet]:
    """The smallest, the last block of each stage beside what always runs, and no block that can be skipped."""
    fixed = [tuple(range(int(stage.fixed_entry))) for stage in network.stages]
    last = [(*first, stage.blocks - 1) for first, stage in zip(fixed, network.stages, strict=True)]
    return [network.space.smallest, Subnet(tuple(last)), Subnet(tuple(fixed))]


def skipped(network: ResidualNetwork, subnet: Subnet) -> set[str]:
    return {
        name
        for stage, kept in zip(network.stages, subnet.stages, strict=True)
        for number, name in enumerate(stage.block_names)
        if number not in kept
    }


def close(found: Tensor, expected: Tensor, what: object = "") -> None:
    assert found.shape == expected.shape, what
    assert float((found - expected).abs().max()) <= 1e-12 * max(1.0, float(expected.abs().max())), what


@pytest.mark.parametrize("name", NETS)
def test_its_blocks_are_found_and_a_subnet_is_the_net_that_is_written_without_them(name):
    net = NETS[name]
    model, inputs = made(net), net.inputs()
    network = stimulative.unravel(model, inputs)
    assert [(stage.name, stage.blocks, stage.fixed_entry) for stage in network.stages] == net.stages
    chosen = subnets(network)
    assert not torch.allclose(network(inputs, chosen[0]), network(inputs)), "the blocks do something"
    for training in (False, True):
        network.train(training)
        expected = copy.deepcopy(model)
        every = [network.full, *chosen]
        wanted = [net.by_hand(expected, *inputs, skipped=skipped(network, subnet)) for subnet in every]
        torch.stack([output.square().mean() for output in wanted]).sum().backward()
        found = network.run(inputs, every)
        torch.stack([output.square().mean() for output in found]).sum().backward()
        for subnet, output, want in zip(every, found, wanted, strict=True):
            close(output.detach(), want.detach(), (subnet, training))
        for (key, parameter), (_, other) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in (parameter, other)]
            close(*gradients, key)
        model.zero_grad()


@pytest.mark.parametrize("name", NETS)
def test_a_step_beside_a_loss_of_ones_own_is_that_of_nets_written_without_the_blocks(name):
    net = NETS[name]
    inputs, model = net.inputs(), made(net)
    network = stimulative.unravel(model, inputs)
    small = network.space.smallest
    plain = copy.deepcopy(model).train()
    output, other = (net.by_hand(plain, *inputs, skipped=skipped(network, subnet)) for subnet in (network.full, small))
    target = torch.zeros_like(output)
    expected = F.mse_loss(output, target) + 2 * F.mse_loss(other, output.detach())
    expected.backward()
    method = stimulative.StimulativeTraining(
        network, task="regression", balance=2.0, balance_ramp=0, sampler=lambda *a: small
    )
    method.train()
    with method.beside() as subnets_beside:
        loss = F.mse_loss(model(*inputs), target)
    (loss + subnets_beside.term).backward()
    close((loss + subnets_beside.term).detach(), expected.detach())
    for (key, parameter), (_, by_hand) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in (parameter, by_hand)]
        close(*gradients, key)


@pytest.mark.parametrize("name", NETS)
def test_it_is_trained_at_two_depths_and_taken_apart(name):
    net = NETS[name]
    inputs = net.inputs()
    network = stimulative.unravel(made(net), inputs)
    small = network.space.smallest
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    network.train()
    target = torch.zeros_like(network(inputs)).detach()
    losses = []
    for _ in range(4):
        outputs = network.run(inputs, [network.full, small])
        loss = torch.stack([F.mse_loss(output, target) for output in outputs]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    network.eval()
    for subnet in subnets(network)[:2]:
        taken = stimulative.extract(network, subnet, "keep")
        with torch.no_grad():
            expected = net.by_hand(network.model, *inputs, skipped=skipped(network, subnet))
            close(taken(*inputs), expected, subnet)
        assert sum(p.numel() for p in taken.parameters()) < sum(p.numel() for p in network.model.parameters())
        taken(*inputs).square().mean().backward()
        gradients = [parameter.grad for parameter in taken.parameters() if parameter.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", NETS)
def test_a_family_of_it_is_loaded_by_the_names_of_its_blocks(name, tmp_path):
    net = NETS[name]
    inputs, model = net.inputs(), made(net)
    network = stimulative.unravel(model, inputs).eval()
    by_hand = stimulative.unravel(model, inputs, stages=[stage.block_names for stage in network.stages])
    small = network.space.smallest
    keeps = layers_with_statistics(model, network.wiring)
    statistics = network.recalibrate([inputs], [network.full, small]) if keeps else None
    file = tmp_path / "family.safetensors"
    save_family(network, file, [network.full, small], calibration=[inputs] if keeps else None)
    family = stimulative.load(file, model=net.make(), example_input=inputs)
    for subnet in (network.full, small):
        with torch.no_grad(), family.use(subnet):
            expected = network(inputs, subnet, statistics=statistics)
            close(family(*inputs), expected, subnet)
            close(by_hand(inputs, subnet, statistics=statistics), expected, subnet)


SMALL = {
    "tiny_vit_5m_224": {
        "embed_dims": (8, 8, 8),
        "depths": (1, 2, 3),
        "num_heads": (1, 2, 2),
        "window_sizes": (2, 2, 2),
    },
    "dpn48b": {},
    "rexnet_100": {"width_mult": 0.3},
}


@pytest.mark.parametrize("name", SMALL)
def test_blocks_that_return_more_or_nothing_are_themselves_when_they_are_named(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4, **SMALL[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    x = torch.randn(1, 3, 32, 32)
    network = stimulative.unravel(model, x)
    by_hand = stimulative.unravel(model, x, stages=[stage.block_names for stage in network.stages])
    assert [place.returns for place in by_hand.wiring.places] == [place.returns for place in network.wiring.places]
    assert network.wiring.places[-1].returns != Input(0), "not its input alone"
    with torch.no_grad():
        assert torch.equal(by_hand(x, network.space.smallest), network(x, network.space.smallest))


def test_torchvisions_video_resnet():
    torch.manual_seed(0)
    model = r3d_18(num_classes=3).double().eval()
    x = torch.randn(1, 3, 2, 16, 16, dtype=torch.float64)
    network = stimulative.unravel(model, x)
    assert [(stage.name, stage.blocks, stage.fixed_entry) for stage in network.stages] == [
        ("layer1", 2, False),
        ("layer2", 2, True),
        ("layer3", 2, True),
        ("layer4", 2, True),
    ]
    subnet = network.resolve("[1]-1-2-1")
    with torch.no_grad():
        expected = r3d(model, x, skipped(network, subnet))
        close(network(x, subnet), expected)
        close(stimulative.extract(network, subnet, "keep")(x), expected)
