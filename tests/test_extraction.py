"""A subnet that is taken out is a plain module, is smaller by what was skipped, and computes what it did in place."""

import copy
import io
import os
import subprocess
import sys

import kinds
import nets
import pytest
import timm
import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import stimulative
from stimulative import Subnet, models
from stimulative.analysis import CostModel
from stimulative.deploy.carving import carve
from stimulative.deploy.extraction import carve_checked
from stimulative.errors import UsageError
from stimulative.objectives import logits_of
from stimulative.residual import evaluating, keep_only

WITHOUT_LIBRARY = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "stimulative":
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
"""


def middle(network):
    """A subnet without the last block of each stage that has one to spare."""
    return network.space.at([max(low, high - 1) for low, high in network.space.ranges])


def with_gaps(network):
    """Every other block of each stage."""
    return Subnet(tuple(tuple(range(0, length, 2)) for length in network.space.lengths))


def call(model, x):
    with torch.no_grad():
        return logits_of(model(**x) if isinstance(x, dict) else model(x))


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_what_is_taken_out_computes_and_costs_what_the_subnet_does(kind):
    model, x = kinds.make(kind)
    network = stimulative.unravel(model, x)
    costs = CostModel(network, x)
    chosen = [middle(network), network.space.smallest, with_gaps(network)]
    assert network.full not in chosen
    batches = [x]
    statistics = network.recalibrate(batches, chosen)
    before = copy.deepcopy(model.state_dict())
    for subnet in chosen:
        taken = stimulative.extract(network, subnet, batches)
        assert type(taken) is type(model) and not taken.training
        with evaluating(network), torch.no_grad():
            expected = logits_of(network(x, subnet, statistics=statistics))
        whole = call(model.eval(), x)
        assert (expected - whole).abs().max() > 1e-3 * whole.abs().max()  # it makes a difference which net it is
        assert torch.allclose(call(taken, x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        assert parameters(taken) == costs.of(subnet).parameters < parameters(model)
        with (
            FlopCounterMode(display=False) as counter,
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        ):
            example = {key: value[:2] for key, value in x.items()} if isinstance(x, dict) else x
            call(taken, example)
        assert counter.get_total_flops() == costs.of(subnet).flops < costs.main.flops
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_names_are_those_of_the_architecture_built_with_these_depths():
    built = {
        "resnet50": timm.create_model("resnet50", num_classes=10, layers=(2, 3, 4, 1)),
        "vit": timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=48, num_classes=10, depth=5),
        "swin": timm.create_model(
            "swin_tiny_patch4_window7_224", num_classes=10, **(kinds._SWIN | {"depths": (1, 2, 3, 2)})
        ),
        "densenet": timm.create_model("densenet121", num_classes=10, growth_rate=8, block_config=(1, 2, 4, 3)),
        "convnext": timm.create_model("convnext_atto", num_classes=10, depths=(1, 2, 3, 1)),
    }
    subnets = {"resnet50": "2-3-4-1", "vit": "5", "swin": "1-2-3-2", "densenet": "1-2-4-3", "convnext": "1-2-3-1"}
    for kind, smaller in built.items():
        model, x = kinds.make(kind)
        taken = stimulative.extract(stimulative.unravel(model, x), subnets[kind], "keep")
        smaller.load_state_dict(taken.state_dict())  # names and shapes, all of them
        assert torch.allclose(call(smaller.eval(), x), call(taken, x), atol=1e-5)


def test_blocks_in_one_flat_container_move_up_together():
    import torchvision

    torch.manual_seed(0)
    x = kinds.images(32)
    network = stimulative.unravel(torchvision.models.mobilenet_v3_small(num_classes=10), x)
    taken = stimulative.extract(network, network.space.smallest, "keep")
    assert list(taken.features._modules) == [str(number) for number in range(len(taken.features))]
    assert len(taken.features) < len(network.model.features)
    with evaluating(network), torch.no_grad():
        assert torch.allclose(taken(x), network(x, network.space.smallest), atol=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_language_model_is_one_of_its_own(kind, tmp_path):
    model, x = kinds.make(kind)
    network = stimulative.unravel(model, x)
    taken = stimulative.extract(network, Subnet(((0, 2, 3),)))
    assert taken.config.num_hidden_layers == 3 and model.config.num_hidden_layers == 4
    taken.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert parameters(again) == parameters(taken)
    assert torch.allclose(call(again, x), call(taken, x), atol=1e-6)
    prompt = x["input_ids"][:1, :4]
    with network.only(Subnet(((0, 2, 3),))) as inside, torch.no_grad(), evaluating(network):
        expected = inside.generate(prompt, max_new_tokens=8, do_sample=False)
    assert torch.equal(taken.generate(prompt, max_new_tokens=8, do_sample=False), expected)


def test_layer_lists_of_a_config_keep_those_of_the_layers_that_are_left():
    types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = transformers.Qwen2Config(
        num_hidden_layers=4,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
        use_sliding_window=True,
        sliding_window=4,
        layer_types=types,
    )
    network = stimulative.unravel(transformers.Qwen2ForCausalLM(config), kinds.tokens())
    taken = stimulative.extract(network, Subnet(((1, 2, 3),)))
    assert taken.config.layer_types == types[1:] and network.model.config.layer_types == types
    assert [layer.self_attn.layer_idx for layer in taken.model.layers] == [0, 1, 2]


def test_it_can_be_trained_further_and_the_main_net_does_not_notice():
    model, x = kinds.make("resnet50")
    network = stimulative.unravel(model, x)
    before = copy.deepcopy(model.state_dict())
    taken = stimulative.extract(network, "1-2-2-1", "keep").train()
    optimizer = torch.optim.SGD(taken.parameters(), lr=0.01)
    y = torch.tensor([1, 2])
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(taken(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in taken.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_its_statistics_are_recalibrated_or_given_or_kept():
    model, x = kinds.make("cifar-resnet")
    network = stimulative.unravel(model, x)
    batches = [torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    statistics = network.recalibrate(batches, ["1-2-1"], images=40)
    taken = stimulative.extract(network, "1-2-1", statistics)
    again = stimulative.extract(network, "1-2-1", batches, images=40)
    kept = stimulative.extract(network, "1-2-1", "keep")
    assert all(torch.equal(a, b) for a, b in zip(taken.buffers(), again.buffers(), strict=True))
    mean, _ = statistics.of(network.wiring, ((0,), (0, 1), (0,)))["layer3.0.bn2"]
    assert torch.equal(taken.layer3[0].bn2.running_mean, mean)
    assert torch.equal(kept.layer3[0].bn2.running_mean, model.layer3[0].bn2.running_mean)
    assert not torch.equal(taken.layer3[0].bn2.running_mean, kept.layer3[0].bn2.running_mean)
    whole = stimulative.extract(network, "3-3-3")  # the main net's statistics are its own
    assert torch.equal(call(whole, x), call(model.eval(), x))


def test_statistics_are_asked_for_where_they_are_needed():
    model, x = kinds.make("cifar-resnet")
    network = stimulative.unravel(model, x)
    with pytest.raises(UsageError, match=r"subnet 1-2-1 needs its own: give calibration= batches of training images"):
        stimulative.extract(network, "1-2-1")
    with pytest.raises(UsageError, match="no statistics for 1 of 1 subnets"):
        stimulative.extract(network, "1-2-1", network.recalibrate([x], ["2-2-2"]))
    with pytest.raises(UsageError, match=r"does not fit stage 'layer1'.*Allowed: depths \(1\.\.3"):
        stimulative.extract(network, "4-1-1", "keep")
    with pytest.raises(UsageError, match=r"is taken out of a ResidualNetwork, got CifarResNet: stimulative\.unravel"):
        stimulative.extract(model, "1-2-1", [x])
    for nothing in ("abc", 5):
        with pytest.raises(UsageError, match=rf"calibration is batches of training images .* got {nothing!r}"):
            stimulative.extract(network, "1-2-1", nothing)
    vit, x = kinds.make("vit")
    assert stimulative.extract(stimulative.unravel(vit, x), "3") is not None  # it keeps no statistics


def test_changing_the_order_of_blocks_comes_out_as_it_is_in_place():
    model, x = kinds.make("vit")
    network = stimulative.unravel(model, x)
    subnet = Subnet(((4, 0, 2),))
    taken = stimulative.extract(network, subnet)
    with evaluating(network), torch.no_grad():
        assert torch.allclose(taken(x), network(x, subnet), atol=1e-6)
    assert torch.equal(taken.blocks[0].attn.qkv.weight, model.blocks[4].attn.qkv.weight)


def test_blocks_that_are_called_by_name_leave_an_identity():
    net = nets.randomised(nets.AttributeNet())
    x = nets.images()
    network = stimulative.unravel(net, x)
    subnet = network.space.smallest
    carving = carve_checked(network, subnet, None)
    assert carving.identities
    assert all(type(carving.model.get_submodule(name)) is nn.Identity for name in carving.identities)
    with evaluating(network), torch.no_grad():
        assert torch.allclose(carving.model(x), network(x, subnet), atol=1e-12)


class Counting(nn.Module):
    """A net that asks for its blocks by their numbers."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.stem = nn.Conv2d(3, 6, 1)
        self.blocks = nn.ModuleList(nets.MLPBlock(6) for _ in range(count))

    def forward(self, x):
        x = self.stem(x).mean((2, 3))
        for number in range(self.count):
            x = self.blocks[number](x)
        return x


def test_a_loop_that_counts_gets_identities_instead():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    network = stimulative.unravel(Counting(4), x)
    taken = stimulative.extract(network, "2")
    assert [type(block) is nn.Identity for block in taken.blocks] == [False, False, True, True]
    with evaluating(network), torch.no_grad():
        assert torch.allclose(taken(x), network(x, "2"))
    assert parameters(taken) < parameters(network.model)


class Scaled(nets.MLPBlock):
    def forward(self, x, scale):
        return x + scale * self.f(x)


class Numbered(nn.Module):
    """A net that does something else after its first block than after the others, and gives blocks two things."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.blocks = nn.ModuleList(Scaled(6) for _ in range(4))

    def forward(self, x):
        x = self.stem(x).mean((2, 3))
        for number, block in enumerate(self.blocks):
            x = block(x, scale=torch.tensor(2.0))
            if number == 0:
                x = torch.tanh(x)
        return x


def test_blocks_that_are_given_more_get_a_stand_in_that_takes_it(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    network = stimulative.unravel(Numbered(), x)
    subnet = Subnet(((1, 2),))  # without block 0, after which the tanh is
    carving = carve_checked(network, subnet, None)
    assert list(carving.stand_ins) == ["blocks.0", "blocks.3"] and not carving.identities
    with evaluating(network), torch.no_grad():
        expected = network(x, subnet)
    assert torch.allclose(carving.model(x), expected)
    program = torch.export.export(carving.model, (x,))
    assert torch.allclose(program.module()(x), expected)
    assert len(stimulative.extract(network, "3").blocks) == 3  # where nothing of that matters, there is none


@pytest.mark.parametrize("name", ["rexnet_100", "dpn48b", "tiny_vit_5m_224", "mvitv2_tiny", "twins_svt_small"])
def test_blocks_whose_skipped_call_is_no_identity(name):
    """Channels of zeros behind the input, several tensors, sums in the code around: no class of this library either."""
    model = timm.create_model(name, num_classes=10)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    x = kinds.images(224, 1)
    network = stimulative.unravel(model, x)
    subnet = network.space.smallest
    taken = stimulative.extract(network, subnet, "keep")
    with evaluating(network), torch.no_grad():
        expected = network(x, subnet)
    assert torch.allclose(call(taken, x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert parameters(taken) == CostModel(network, x).of(subnet).parameters < parameters(model)
    buffer = io.BytesIO()
    torch.save(taken, buffer)
    assert b"stimulative" not in buffer.getvalue()


class Remembering(nn.Module):
    """A block that also returns something of its own making."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return x + self.f(x), self.g(x)


class Reading(nn.Module):
    """A net that asks for its blocks by number, and reads what the last one has made."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.blocks = nn.ModuleList(Remembering() for _ in range(3))

    def forward(self, x):
        x, made = self.stem(x).mean((2, 3)), None
        for number in range(3):
            x, made = self.blocks[number](x)
        return torch.cat([x, made], 1)


def test_what_would_not_be_the_subnet_is_refused():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    network = stimulative.unravel(Reading(), x)
    with pytest.raises(UsageError) as raised:
        stimulative.extract(network, "2")
    assert str(raised.value) == (
        "subnet 2 cannot be taken out of Reading. Without the skipped blocks: it fails: IndexError: index 2 is out of "
        "range; with something else in their places: what block 'blocks.2' returns when it is skipped is made by the "
        "block before it. Run it in place: network(x, subnet), or network.only(subnet)"
    )


def test_a_difference_is_an_error(monkeypatch):
    model, x = kinds.make("cifar-resnet")
    network = stimulative.unravel(model, x)

    def wrong(*args, **kwargs):
        carving = carve(*args, **kwargs)
        next(carving.model.parameters()).data[0] += 0.01
        return carving

    monkeypatch.setattr("stimulative.deploy.extraction.carve", wrong)
    with pytest.raises(UsageError, match=r"its outputs differ by up to [\d.e-]+, where the largest is"):
        stimulative.extract(network, "1-2-1", "keep")


@pytest.mark.parametrize("kind", ["cifar-resnet", "densenet", "swin", "llama"])
def test_a_view_shares_its_parameters_and_trains_them(kind):
    model, x = kinds.make(kind)
    network = stimulative.unravel(model, x)
    subnet = with_gaps(network)
    view = carve(network, subnet, shared=True).model.eval()  # drop path would draw anew
    network.eval()
    own = {id(parameter) for parameter in model.parameters()}
    assert all(id(parameter) in own for parameter in view.parameters())
    logits_of(view(**x) if isinstance(x, dict) else view(x)).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    logits_of(network(x, subnet)).sum().backward()
    expected = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) == len(expected) > 0
    for got, wanted in zip(gradients, expected, strict=True):
        assert torch.allclose(got, wanted, atol=1e-5 * float(wanted.abs().max()) + 1e-7)


def test_what_was_saved_loads_where_this_library_is_not(tmp_path):
    """The modules whole, as pickles: their classes are timm's and Transformers' own."""
    saved = []
    for kind in (
        "small-stem-resnet",
        "resnet50",
        "mobilenetv3",
        "convnext",
        "vit",
        "swin",
        "densenet",
        "gpt2",
        "llama",
    ):
        model, x = kinds.make(kind)
        network = stimulative.unravel(model, x)
        taken = stimulative.extract(network, middle(network), [x])
        file = tmp_path / f"{kind}.pt"
        torch.save({"module": taken, "x": x, "expected": call(taken, x)}, file)
        saved.append(str(file))
    script = f"""{WITHOUT_LIBRARY}
import torch
for file in sys.argv[1:]:
    saved = torch.load(file, weights_only=False)
    module, x = saved["module"], saved["x"]
    with torch.no_grad():
        output = module(**x) if isinstance(x, dict) else module(x)
    logits = output if isinstance(output, torch.Tensor) else output.logits
    assert torch.allclose(logits, saved["expected"], rtol=0, atol=1e-6), file
assert not any(name.split(".")[0] == "stimulative" for name in sys.modules)
print("loaded", len(sys.argv) - 1)
"""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # with more or fewer, sums have another order
    done = subprocess.run(
        [sys.executable, "-c", script, *saved], capture_output=True, text=True, cwd=tmp_path, env=os.environ | threads
    )
    assert done.stdout == f"loaded {len(saved)}\n", done.stderr


def test_nothing_of_this_library_is_in_it():
    for kind in ("resnet50", "densenet", "llama"):
        model, x = kinds.make(kind)
        network = stimulative.unravel(model, x)
        network(x, network.space.smallest)
        taken = stimulative.extract(network, network.space.smallest, "keep")
        buffer = io.BytesIO()
        torch.save(taken, buffer)
        assert b"stimulative" not in buffer.getvalue()


def test_blocks_that_were_removed_before_training_leave_nothing_of_it_either():
    model, x = kinds.make("small-stem-resnet")
    network = keep_only(stimulative.unravel(model, x), "2-1-2-1")
    taken = stimulative.extract(network, [1, 1, 2, 1], [x])
    assert type(taken.layer2[1]) is nn.Identity and len(taken.layer1) == 1
    buffer = io.BytesIO()
    torch.save(taken, buffer)
    assert b"stimulative" not in buffer.getvalue()


def test_skipped_blocks_are_not_copied():
    net = models.build("cifar/resnet20", classes=10, arguments={"width": 4})
    network = stimulative.unravel(net, kinds.images(32))
    copied = []

    class Watched(nn.Parameter):
        def __deepcopy__(self, memo):
            copied.append(self.owner)
            return nn.Parameter(self.data.clone())

    for name, module in net.named_modules():
        for key, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[key] = Watched(parameter.data)
                module._parameters[key].owner = name
    stimulative.extract(network, "1-1-1", "keep")
    assert copied and not any(name.startswith(("layer1.1", "layer1.2", "layer2.1", "layer3.2")) for name in copied)
