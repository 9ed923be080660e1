"""Networks that are hard to take apart, one of each kind: each subnet is a plain model without the skipped blocks."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from nets import CLASSES, LoopedNet, MLPBlock, images, randomised
from timm.models import (
    byobnet,
    coat,
    convmixer,
    crossvit,
    davit,
    dpn,
    efficientvim,
    efficientvit_mit,
    hrnet,
    maxxvit,
    metaformer,
    mvitv2,
    nfnet,
    rdnet,
    rexnet,
    tiny_vit,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.googlenet import Inception
from torchvision.models.maxvit import MaxVit
from torchvision.models.shufflenetv2 import ShuffleNetV2

from stimulative import StimulativeTraining, unravel
from stimulative.analysis import CostModel
from stimulative.errors import UsageError
from stimulative.residual import ResidualNetwork, Subnet

# --- plain models -----------------------------------------------------------------------------------------------

Gone = Callable[[nn.Module], nn.Module]
Names = Sequence[Sequence[str]]


def without_blocks(model: nn.Module, stages: Names, subnet: Subnet, gone: Gone | None = None) -> None:
    """Take the blocks that a subnet skips out of the containers that they are in.

    Args:
        model: The model, which is changed.
        stages: The names of the blocks of each stage.
        subnet: The blocks to keep, in the order in which they are to run.
        gone: What to put in the place of a block instead, given the block.
    """
    modules = dict(model.named_modules())
    left: dict[str, dict[str, nn.Module]] = {}
    for names, kept in zip(stages, subnet.stages, strict=True):
        for place, name in enumerate(names):
            parent, _, key = name.rpartition(".")
            children = left.setdefault(parent, dict(modules[parent].named_children()))
            number = runs_at(place, kept)
            if number is not None:
                children[key] = modules[names[number]]
            elif gone is not None:
                children[key] = gone(modules[name])
            elif isinstance(modules[parent], nn.Sequential | nn.ModuleList):
                del children[key]
            else:
                children[key] = nn.Identity()
    for parent, children in left.items():
        keys = list(children)
        if all(key.isdecimal() for key in keys):
            keys = [str(number) for number in range(len(keys))]
        modules[parent]._modules.clear()
        modules[parent]._modules.update(zip(keys, children.values(), strict=True))


def runs_at(place: int, kept: Sequence[int]) -> int | None:
    """The block that runs at a place: blocks stay where they are, and fill the first places in another order."""
    if list(kept) == sorted(kept):
        return place if place in kept else None
    return kept[place] if place < len(kept) else None


class Zeros(nn.Module):
    """In the place of what is added to its own input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Streams(nn.Module):
    """In the place of a block of one or several streams, each an argument."""

    def forward(self, *streams: Tensor, **sizes: Any) -> Any:
        return streams[0] if len(streams) == 1 else streams


class Padded(nn.Module):
    """In the place of a block that returns more channels than it is given."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(len(x), self.added, *x.shape[2:])], 1)


# --- own networks -----------------------------------------------------------------------------------------------


class GainBlock(nn.Module):
    """``g x + h f(x)`` in one of several forms."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.g = nn.Parameter(torch.ones(6))
        self.h = nn.Parameter(torch.full((6,), 1e-5)) if how == "both" else None
        self.f = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "balanced":
            gain = self.g.sigmoid()
            return gain * x + (1 - gain) * self.f(x)
        return self.g * x + (self.f(x) if self.h is None else self.h * self.f(x))


class BertBlock(nn.Module):
    """A norm behind each addition, or behind the only one."""

    def __init__(self, attends: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True) if attends else None
        self.attention_norm = nn.LayerNorm(6) if attends else None
        self.f = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        if self.attention is not None and self.attention_norm is not None:
            x = self.attention_norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.norm(x + self.f(x))


class MapBlock(nn.Module):
    """Returns its stream, the size of the map as it was given, and the attention map."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.out = nn.Linear(6, 6)

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int], Tensor]:
        q, k, v = self.qkv(x).chunk(3, -1)
        attention = (q @ k.transpose(1, 2)).softmax(-1)
        return x + self.out(attention @ v), size, attention


class TokenNet(nn.Module):
    """Four blocks over eight tokens of six channels, ``rounds`` times with the same weights."""

    def __init__(self, block: Callable[[], nn.Module], rounds: int = 1) -> None:
        super().__init__()
        self.rounds = rounds
        self.embed = nn.Linear(24, 6)
        self.norm = nn.LayerNorm(6)
        self.blocks = nn.ModuleList([block() for _ in range(4)])
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x.flatten(1).unflatten(1, (8, 24))))
        for _ in range(self.rounds):
            for block in self.blocks:
                x = block(x)
        return self.head(x.mean(1))


class MapNet(TokenNet):
    """Its head reads the map of its last block, and the size that came through all of them."""

    def __init__(self) -> None:
        super().__init__(MapBlock)
        self.map_head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1).unflatten(1, (8, 24)))
        size, attention = (2, 4), None
        for block in self.blocks:
            x, size, attention = block(x, size)
        assert attention is not None
        return self.head(x.unflatten(1, size).mean((1, 2))) + self.map_head(attention.mean(1))


class AliasNet(LoopedNet):
    """A block of its list has another name as well, given before the list or after, or is in the list twice."""

    def __init__(self, how: str) -> None:
        super().__init__()
        blocks = self.blocks
        if how == "before":
            del self.blocks
            self.first = blocks[0]
        if how == "after":
            self.last = blocks[-1]
        self.blocks = nn.ModuleList([*blocks[:3], blocks[0], blocks[3]]) if how == "twice" else blocks
        if how == "tied":
            for block in self.blocks[1:]:
                block.f[1].weight = self.blocks[0].f[1].weight


def without_blocks_of_a_list_with_one_twice(model: nn.Module, stages: Names, subnet: Subnet) -> None:
    modules = dict(model.named_modules())
    at = [runs_at(place, subnet.stages[0]) for place in range(4)]
    order = [at[place] for place in (0, 1, 2, 0, 3)]
    model.blocks = nn.ModuleList([modules[stages[0][number]] for number in order if number is not None])


class Wrapped(nn.Module):
    """Passes on what a module within returns, in a mapping."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"body": inner})

    def forward(self, *, x: Tensor) -> dict[str, Tensor]:
        return {"x": self.inner["body"](x)}


class WrappedNet(nn.Module):
    """Stages in wrappers in a list; each as a whole returns its input when its parameters are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 8 * 8, 6)
        self.stages = nn.ModuleList([Wrapped(nn.Sequential(*[MLPBlock(6) for _ in range(n)])) for n in (2, 3)])
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        stream = {"x": self.embed(x.flatten(1))}
        for stage in self.stages:
            stream = stage(**stream)
        return self.head(stream["x"])


# --- the table --------------------------------------------------------------------------------------------------


class SmallAttention(metaformer.Attention):
    def __init__(self, dim: int, **settings: Any) -> None:
        super().__init__(dim, **{**settings, "head_dim": 4})


def branches(blocks: int, *widths: int, kind: str = "BASIC") -> dict[str, Any]:
    return {
        "num_modules": 1,
        "num_branches": len(widths),
        "block_type": kind,
        "num_blocks": (blocks,) * len(widths),
        "num_channels": widths,
        "fuse_method": "SUM",
    }


class SmallHighResolutionNet(hrnet.HighResolutionNet):
    """With a small head in the place of the published one, which has millions of parameters."""

    def __init__(self) -> None:
        stages = {"stage1": branches(1, 4, kind="BOTTLENECK"), "stage2": branches(3, 4, 8)}
        stages |= {"stage3": branches(2, 4, 8, 12), "stage4": branches(2, 4, 8, 12, 16)}
        super().__init__({"stem_width": 8, **stages}, head="")
        self.small_head = nn.Linear(4 + 8 + 12 + 16, CLASSES)

    def forward_head(self, x: list[Tensor], pre_logits: bool = False) -> Tensor:
        return self.small_head(torch.cat([branch.mean((2, 3)) for branch in x], 1))


Plan = list[tuple[str, int, bool]]


@dataclass(frozen=True)
class Case:
    """A network and what is to be found in it.

    Args:
        make: Builds it, small.
        plan: The name, the number of blocks and the fixed entry of each stage.
        size: The side of its images.
        flags: What else is true of each stage.
        plain: Turns a copy of the model into one without some blocks.
        checkpoints: Whether its library can switch activation checkpointing on.
    """

    make: Callable[[], nn.Module]
    plan: Plan
    size: int = 32
    flags: frozenset[str] = field(default_factory=frozenset)
    plain: Callable[[nn.Module, Names, Subnet], None] = without_blocks
    checkpoints: bool = False


def stages(pattern: str, *blocks: tuple[object, int, bool]) -> Plan:
    return [(pattern.format(which), count, fixed) for which, count, fixed in blocks]


SETTINGS: dict[str, Any] = {"num_classes": CLASSES}
OWN_BLOCKS: Plan = [("blocks", 4, False)]
CASES = {
    # weights standardised in each forward, gains that start at zero
    "NFNet": Case(
        lambda: nfnet.NormFreeNet(
            nfnet.NfCfg(
                depths=(2, 4, 1, 2), channels=(16, 16, 16, 16), stem_type="3x3", stem_chs=8, attn_layer="se",
                attn_kwargs={}, extra_conv=True, skipinit=True,
            ),
            **SETTINGS,
        ),
        stages("stages.{}", (0, 2, True), (1, 4, True), (3, 2, True)),
        checkpoints=True,
    ),
    # blocks whose children are residual, too
    "CoAtNet": Case(
        lambda: maxxvit.MaxxVit(
            maxxvit.MaxxVitCfg(
                embed_dim=(8, 8, 8), depths=(2, 3, 3), block_type=("C", "C", "T"), stem_width=8,
                transformer_cfg=maxxvit.MaxxVitTransformerCfg(dim_head=4),
            ),
            img_size=64, **SETTINGS,
        ),
        stages("stages.{}.blocks", (0, 2, True), (1, 3, True), (2, 3, True)),
        size=64,
        checkpoints=True,
    ),
    # the first block of a stage holds two attentions that can be skipped one by one, so it is no entry block
    "MaxViT": Case(
        lambda: maxxvit.MaxxVit(
            maxxvit.MaxxVitCfg(
                embed_dim=(8, 8), depths=(1, 4), block_type=("M", "M"), stem_width=8,
                transformer_cfg=maxxvit.MaxxVitTransformerCfg(dim_head=4, window_size=2, rel_pos_type="bias"),
            ),
            img_size=32, **SETTINGS,
        ),
        [
            ("stages.0.blocks.0.attn_block-attn_grid", 2, False),
            ("stages.1.blocks.0.attn_block-attn_grid", 2, False),
            ("stages.1.blocks.1-3", 3, False),
        ],
        checkpoints=True,
    ),
    "EfficientViT": Case(
        lambda: efficientvit_mit.EfficientVit(
            widths=(4, 8, 8, 8), depths=(1, 3, 2, 3), head_dim=4, head_widths=(8, 8), **SETTINGS
        ),
        # the third one begins with a block that is no sum; its others hold two sums each
        [("stages.0.blocks", 3, True), ("stages.1.blocks", 2, True), ("stages.2.blocks.1-3", 3, False)],
        checkpoints=True,
    ),
    # several streams
    "CrossViT": Case(
        lambda: crossvit.CrossVit(
            img_scale=(1.0, 0.5), patch_size=(8, 8), embed_dim=(8, 12), depth=((1, 3, 1), (2, 2, 0)), num_heads=(2, 2),
            mlp_ratio=(2.0, 2.0, 1.0), img_size=32, **SETTINGS,
        ),
        [("blocks.0.blocks.1", 3, False), ("blocks.1.blocks.0", 2, False), ("blocks.1.blocks.1", 2, False)],
    ),
    "CoaT": Case(
        lambda: coat.CoaT(
            img_size=32, patch_size=4, embed_dims=(8, 8, 8, 8), serial_depths=(2, 1, 1, 3), parallel_depth=3,
            num_heads=8, mlp_ratios=(1, 1, 1, 1), **SETTINGS,
        ),
        [("serial_blocks1", 2, False), ("serial_blocks4", 3, False), ("parallel_blocks", 3, False)],
        # the model's own code runs a convolution before each of its parallel blocks
        plain=partial(without_blocks, gone=lambda block: Streams()),
    ),
    "HRNet": Case(
        SmallHighResolutionNet,
        [
            *stages("stage2.0.branches.{}", *[(n, 3, False) for n in range(2)]),
            *stages("stage3.0.branches.{}", *[(n, 2, False) for n in range(3)]),
            *stages("stage4.0.branches.{}", *[(n, 2, False) for n in range(4)]),
        ],
    ),
    # blocks that add channels: those of a skipped one are zeros
    "DPN": Case(
        lambda: dpn.DPN(
            k_sec=(2, 4, 1, 3), inc_sec=(2, 2, 2, 2), k_r=2, groups=2, small=True, num_init_features=4, **SETTINGS
        ),
        [
            ("features.conv2_1-conv2_2", 2, True),
            ("features.conv3_1-conv3_4", 4, True),
            ("features.conv5_1-conv5_3", 3, True),
        ],
        flags=frozenset({"widens"}),
        plain=partial(without_blocks, gone=lambda block: Padded(block.inc)),
        checkpoints=True,
    ),
    "RexNet": Case(
        lambda: rexnet.RexNet(initial_chs=4, final_chs=20, drop_rate=0.0, **SETTINGS),
        stages("features.{}", ("1-2", 2, True), ("3-4", 2, True), ("5-10", 6, True), ("11-15", 5, True)),
        flags=frozenset({"widens"}),
        plain=partial(without_blocks, gone=lambda block: Padded(block.out_channels - block.in_channels)),
        checkpoints=True,
    ),
    # the input is weighed, too
    "PoolFormerV2": Case(
        lambda: metaformer.MetaFormer(
            depths=(2, 3), dims=(8, 8), token_mixers=metaformer.Pooling, norm_layers=metaformer.GroupNorm1NoBias,
            res_scale_init_values=(None, 1.0), use_mlp_head=False, **SETTINGS,
        ),
        stages("stages.{}.blocks", (0, 2, False), (1, 3, False)),
        checkpoints=True,
    ),
    "CAFormer": Case(
        lambda: metaformer.MetaFormer(
            depths=(2, 3), dims=(8, 8), token_mixers=[metaformer.SepConv, SmallAttention],
            norm_layers=[metaformer.LayerNorm2dNoBias, metaformer.LayerNormNoBias],
            layer_scale_init_values=[None, 1e-5], res_scale_init_values=(1.0, 1.0), **SETTINGS,
        ),
        stages("stages.{}.blocks", (0, 2, False), (1, 3, False)),
        checkpoints=True,
    ),
    "a gain of the input": Case(lambda: TokenNet(partial(GainBlock, "input")), OWN_BLOCKS, 8),
    "gains of both": Case(lambda: TokenNet(partial(GainBlock, "both")), OWN_BLOCKS, 8),
    "a balance of both": Case(lambda: TokenNet(partial(GainBlock, "balanced")), OWN_BLOCKS, 8),
    # stages within wrappers
    "DaViT": Case(
        lambda: davit.DaVit(
            depths=(1, 3, 2), embed_dims=(8, 8, 8), num_heads=(2, 2, 2), window_size=2, **SETTINGS
        ),
        stages("stages.{}.blocks", (1, 3, False), (2, 2, False)),
        checkpoints=True,
    ),
    "MaxViT of torchvision": Case(
        lambda: MaxVit((32, 32), 8, 2, [8, 8], [1, 3], 4, 0.0, **SETTINGS),
        [
            ("blocks.0.layers.0.layers.window_attention-grid_attention", 2, False),
            ("blocks.1.layers.0.layers.window_attention-grid_attention", 2, False),
            ("blocks.1.layers.1.layers", 3, False),
            ("blocks.1.layers.2.layers", 3, False),
        ],
    ),
    "stages in wrappers": Case(
        WrappedNet, [("stages.0.inner.body", 2, False), ("stages.1.inner.body", 3, False)], 8
    ),
    # more than one input and output
    "MViTv2": Case(
        lambda: mvitv2.MultiScaleVit(
            mvitv2.MultiScaleVitCfg(
                depths=(2, 4, 2), embed_dim=(8, 16, 16), num_heads=(1, 2, 2), stride_q=((1, 1), (2, 2), (2, 2))
            ),
            img_size=32, **SETTINGS,
        ),
        stages("stages.{}.blocks", (0, 2, False), (1, 4, True), (2, 2, True)),
        checkpoints=True,
    ),
    # a state that the block before has to make
    "EfficientViM": Case(
        lambda: efficientvim.EfficientViM(embed_dim=(8, 8, 8), depths=(2, 4, 3), state_dim=(9, 4, 4), **SETTINGS),
        stages("stages.{}.blocks", (0, 2, True), (1, 4, True), (2, 3, True)),
        size=64,
        checkpoints=True,
    ),
    "attention maps": Case(MapNet, [("blocks", 4, True)], 8),
    # shared parameters
    "ALBERT-like": Case(lambda: TokenNet(BertBlock, rounds=3), OWN_BLOCKS, 8),
    "named before": Case(lambda: AliasNet("before"), OWN_BLOCKS, 8),
    "named after": Case(lambda: AliasNet("after"), [("blocks", 5, False)], 8),
    "in the list twice": Case(
        lambda: AliasNet("twice"), OWN_BLOCKS, 8, plain=without_blocks_of_a_list_with_one_twice
    ),
    "tied weights": Case(lambda: AliasNet("tied"), [("blocks", 5, False)], 8),
    # parts of blocks
    "ConvMixer": Case(
        lambda: convmixer.ConvMixer(8, 4, 3, 4, **SETTINGS), [("blocks.*.0", 4, False)], checkpoints=True
    ),
    "TinyViT": Case(
        lambda: tiny_vit.TinyVit(
            embed_dims=(8, 8, 8), depths=(1, 2, 3), num_heads=(1, 2, 2), window_sizes=(2, 2, 2), drop_path_rate=0.0,
            **SETTINGS,
        ),
        [
            (f"stages.{stage}.blocks.*.{part}", blocks, False)
            for stage, blocks in ((1, 2), (2, 3))
            for part in ("attn", "mlp")
        ],
        plain=partial(without_blocks, gone=lambda block: Zeros()),
        checkpoints=True,
    ),
    # norms behind the additions
    "BERT-like": Case(lambda: TokenNet(BertBlock), OWN_BLOCKS, 8),
    "one norm behind": Case(lambda: TokenNet(partial(BertBlock, attends=False)), OWN_BLOCKS, 8),
}  # fmt: skip


def moved(case: Case) -> nn.Module:
    torch.manual_seed(0)
    model = randomised(case.make())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:  # large enough that every block does something
                parameter.add_(0.7 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return model


def network_of(case: Case) -> ResidualNetwork:
    return unravel(moved(case), images(2, case.size))


def plan(network: ResidualNetwork) -> Plan:
    return [(stage.name, stage.blocks, stage.fixed_entry) for stage in network.stages]


def subnets(network: ResidualNetwork) -> list[Subnet]:
    """The smallest subnet, a middle one, the last blocks alone, no blocks, and other orders where they are allowed."""
    some: list[list[tuple[int, ...]]] = [[] for _ in range(5)]
    for stage in network.stages:
        first = tuple(range(int(stage.fixed_entry)))
        others = tuple(range(len(first), stage.blocks))
        backwards = others if stage.in_own_order else others[::-1]
        some[0].append(tuple(range((1 + stage.blocks) // 2)))
        some[1].append((*first, others[-1]))
        some[2].append(first)
        some[3].append((*first, *backwards))
        some[4].append((*first, *backwards[: -(-len(others) // 2)]))
    chosen = dict.fromkeys([network.space.smallest, *(Subnet(tuple(each)) for each in some)])
    return [subnet for subnet in chosen if subnet != network.full]


def plain_model(network: ResidualNetwork, subnet: Subnet, case: Case) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """The plain model of a subnet, and its parameters by the names that they have in the main net."""
    model = copy.deepcopy(network.model)
    parameters = dict(model.named_parameters())
    case.plain(model, [stage.block_names for stage in network.stages], subnet)
    return model, parameters


def close(actual: Tensor, expected: Tensor, what: object = "") -> None:
    assert actual.shape == expected.shape, what
    difference = (actual - expected).abs().max().item()
    assert difference <= 1e-9 * max(expected.abs().max().item(), 1e-6), f"{what}: {difference:.3g}"


def traces(model: nn.Module) -> list[tuple[int, list[str], int]]:
    """What a context or a hook would leave on the modules."""
    return [
        (id(module), list(vars(module)), sum(len(v) for k, v in vars(module).items() if k.endswith("_hooks")))
        for module in model.modules()
    ]


# --- what is found ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_stages_are_found_wherever_the_parameters_are(name):
    case = CASES[name]
    torch.manual_seed(0)
    model = case.make().double()
    before = traces(model)
    for network in (unravel(model, images(2, case.size)), network_of(case)):
        assert plan(network) == case.plan
        assert all(stage.widens == ("widens" in case.flags) for stage in network.stages)
        assert not any(stage.concatenates for stage in network.stages)
        assert all(stage.min_depth == 1 for stage in network.stages)
    assert traces(model) == before


@pytest.mark.parametrize("name", CASES)
def test_a_subnet_is_the_model_without_the_blocks(name):
    case = CASES[name]
    network = network_of(case)
    network.eval()
    before, state = traces(network.model), copy.deepcopy(network.model.state_dict())
    x, chosen = images(3, case.size, seed=1), subnets(network)
    with torch.no_grad():
        main = network.model(x)
        assert torch.equal(network(x), main)
        together = network.run(x, [network.full, *chosen])[1:]
        for subnet, shared in zip(chosen, together, strict=True):
            expected = plain_model(network, subnet, case)[0](x)
            close(shared, expected, subnet)
            close(network(x, subnet), expected, subnet)
            with network.only(subnet) as model:
                close(model(x), expected, subnet)
            assert (expected - main).abs().max() > 1e-3 * main.abs().max(), "the blocks do something"
    assert traces(network.model) == before
    assert all(torch.equal(value, state[key]) for key, value in network.model.state_dict().items())


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_stimulative_training_is_that_of_plain_models(name):
    case = CASES[name]
    x, y = images(4, case.size, seed=2), torch.arange(4) % CLASSES
    start = network_of(case)
    start.train()
    chosen = [subnets(start)[1], subnets(start)[-1]]

    main = copy.deepcopy(start.model)
    logits = main(x)
    target = logits.detach().softmax(1)
    loss = nn.functional.cross_entropy(logits, y)
    parameters = [dict(main.named_parameters())]
    for subnet in chosen:
        model, own = plain_model(start, subnet, case)
        parameters.append(own)
        loss = loss + 2.0 * nn.functional.kl_div(model(x).log_softmax(1), target, reduction="batchmean") / 2
    loss.backward()
    expected = {
        name: sum((own[name].grad for own in parameters if own[name].grad is not None), torch.zeros_like(parameter))
        for name, parameter in parameters[0].items()
    }
    scale = max(value.abs().max().item() for value in expected.values())

    for schedule in ("joint", "lean"):
        network = copy.deepcopy(start)
        before = traces(network.model)
        method = StimulativeTraining(network, balance=2.0, balance_ramp=0, schedule=schedule, subnets_per_step=2)
        terms = method.backward(x, y, chosen)
        close(terms.loss.detach(), loss.detach(), schedule)
        for name, parameter in network.model.named_parameters():
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert (found - expected[name]).abs().max().item() <= 1e-9 * scale, (schedule, name)
        for (name, value), (_, own) in zip(network.model.named_buffers(), main.named_buffers(), strict=True):
            assert torch.equal(value, own), f"{schedule}: {name} is the main net's"
        assert traces(network.model) == before


# --- what is counted, and what cannot be asked for ---------------------------------------------------------------


def test_a_block_with_another_name_counts_under_the_first():
    (stage,) = unravel(moved(CASES["named before"]), images(2)).stages
    assert stage.block_names == ("blocks.1", "blocks.2", "blocks.3", "blocks.4")


def test_a_single_block_called_several_times_is_no_stage():
    model = LoopedNet(rounds=4)
    del model.blocks[1:]
    with pytest.raises(UsageError, match="no residual blocks found in LoopedNet"):
        unravel(model.double(), images())


@pytest.mark.parametrize("name", ["EfficientViM", "attention maps"])
def test_the_first_block_makes_what_later_ones_hand_on(name):
    case = CASES[name]
    network = network_of(case)
    number = next(number for number, (_, blocks, _) in enumerate(case.plan) if blocks == 4)
    depths = ["1"] * len(case.plan)
    for kept in ("[1.2]", "[2.0]", "0"):
        depths[number] = kept
        with pytest.raises(UsageError, match=rf"does not fit stage '{case.plan[number][0]}'.*"):
            network(images(2, case.size), "-".join(depths))
    depths[number] = "[1.2]"
    with pytest.raises(UsageError, match=r"its block 0 makes what later ones hand on and always runs first"):
        network(images(2, case.size), "-".join(depths))


@pytest.mark.parametrize("name", ["DPN", "RexNet"])
def test_blocks_that_widen_run_in_their_own_order(name):
    case = CASES[name]
    with pytest.raises(UsageError, match=r"run in their own order only; got \[0, 2, 1\]"):
        network_of(case)(images(2, case.size), {"DPN": "2-[0.2.1]-1", "RexNet": "1-1-[0.2.1]-1"}[name])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.checkpoints])
def test_checkpointing_of_the_library_is_refused_where_it_would_act(name):
    case = CASES[name]
    network = network_of(case)
    x, subnet = images(2, case.size), network.space.smallest
    network.model.set_grad_checkpointing(True)
    with torch.no_grad():
        assert network(x, subnet).isfinite().all()
    for ask in (lambda: network(x, subnet), lambda: network.only(subnet)):
        with pytest.raises(UsageError, match=r"activation checkpointing is on in .*set_grad_checkpointing\(False\)"):
            ask()
    network.model.set_grad_checkpointing(False)
    assert network(x, subnet).isfinite().all()


# --- what is no block ----------------------------------------------------------------------------------------------


class Gate(nn.Module):
    """Squeeze and excitation: each channel times a number from 0 to 1."""

    def __init__(self, gained: bool = False) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(6, 3, 1)
        self.excite = nn.Conv2d(3, 6, 1)
        self.gain = nn.Parameter(torch.ones(6, 1, 1)) if gained else None

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return x if self.gain is None else self.gain * x


class Swish(nn.Module):
    """An activation with a parameter for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.beta * x).sigmoid()


class Scale(nn.Module):
    """A norm by its root mean square, with a gain and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(6, 1, 1))
        self.bias = nn.Parameter(torch.zeros(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * x.square().mean(1, keepdim=True).add(1e-6).rsqrt() * self.gain + self.bias


class NormAndConv(nn.Module):
    """A norm in front of a convolution, and behind it."""

    def __init__(self, behind: bool) -> None:
        super().__init__()
        self.behind = behind
        self.norm = Scale()
        self.conv = nn.Conv2d(6, 6, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if self.behind else self.conv(self.norm(x))


def stacked(*parts: Callable[[], nn.Module], nested: bool) -> nn.Module:
    """Three times the same parts behind each other, each time in a container of their own or not."""
    each = [[part() for part in parts] for _ in range(3)]
    body = [nn.Sequential(*group) for group in each] if nested else [module for group in each for module in group]
    return nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1), nn.Sequential(*body), nn.Flatten(), nn.Linear(6 * 64, CLASSES))


def conv() -> nn.Module:
    return nn.Conv2d(6, 6, 3, 1, 1)


def byob(blocks: Any, stem: str) -> nn.Module:
    return byobnet.ByobNet(byobnet.ByoModelCfg(blocks=blocks, stem_type=stem, stem_chs=8), **SETTINGS)


NARROW = {"d": (2, 3, 2, 1), "wf": (1 / 8, 1 / 16, 1 / 32, 1 / 32)}
NO_BLOCKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "MobileOne": (lambda: byob(byobnet._mobileone_bcfg(**NARROW, num_conv_branches=2), "one"), 32),
    "MobileOne with gates": (lambda: byob(byobnet._mobileone_bcfg(**NARROW, se_blocks=(0, 0, 2, 1)), "one"), 32),
    "RepVGG": (lambda: byob(byobnet._rep_vgg_bcfg(**NARROW), "rep"), 32),
    "ShuffleNetV2": (lambda: ShuffleNetV2([2, 3, 2], [8, 8, 16, 16, 16], num_classes=CLASSES), 32),
    "Inception": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 20, 3, 2, 1), nn.Sequential(*[Inception(20, 4, 4, 8, 2, 4, 4) for _ in range(3)]), nn.Flatten()
        ),
        8,
    ),
    **{
        f"{name}{', nested' if nested else ''}": (partial(stacked, *parts, nested=nested), 8)
        for nested in (False, True)
        for name, parts in {
            "VGG": (conv, nn.ReLU, conv, nn.ReLU),
            "convolutions and gates": (conv, nn.ReLU, Gate),
            "convolutions and gates with a gain": (conv, nn.ReLU, partial(Gate, gained=True)),
            "convolutions and activations": (conv, Swish),
            "convolutions and norms": (conv, Scale),
            "norms": (Scale,),
            "gates": (Gate,),
            "gates with a gain": (partial(Gate, gained=True),),
            "norms in front": (partial(NormAndConv, behind=False),),
            "norms behind": (partial(NormAndConv, behind=True),),
        }.items()
    },
}


@pytest.mark.parametrize("name", NO_BLOCKS)
def test_what_adds_nothing_to_its_input_is_no_block(name):
    make, size = NO_BLOCKS[name]
    torch.manual_seed(0)
    model = make().double()
    for each in (model, randomised(model)):
        with pytest.raises(UsageError, match=r"no residual blocks found in .*name them: stages=\['layer1', \.\.\.\]"):
            unravel(each, images(2, size))


# --- dense blocks of depthwise convolutions and layer norms ---------------------------------------------------------

DENSE = (2, 3, 2)
GROWTH = (4, 8, 8)  # such that half of the channels is what its library makes of a transition


def dense_net() -> ResidualNetwork:
    torch.manual_seed(0)
    model = rdnet.RDNet(
        growth_rates=GROWTH, num_blocks_list=DENSE, block_type=("Block", "Block", "BlockESE"),
        is_downsample_block=(None, True, False), num_init_features=8, **SETTINGS,
    )  # fmt: skip
    return unravel(randomised(model), images(2, 32))


class SmallDense:
    """An RDNet whose layers are really gone, its weights sliced from those of another one.

    Args:
        main: The net that it is made of.
        kept: The layers to keep, of each dense block.
    """

    def __init__(self, main: nn.Module, kept: Sequence[Sequence[int]]) -> None:
        self.model = copy.deepcopy(main)
        self.names = {name: parameter for name, parameter in self.model.named_parameters()}
        self.modules: dict[str, Any] = dict(self.model.named_modules())
        self.rows: dict[str, tuple[list[int] | None, list[int] | None]] = {}
        channels = list(range(8))
        for number, layers in enumerate(kept):
            stage = f"dense_stages.{number}"
            dense = f"{stage}.2" if number else f"{stage}.0"
            if number:
                self._norm(f"{stage}.0", channels)
                half = list(range(len(channels) // 2))
                self._dense(f"{stage}.1", half, channels)
                channels = half
            whole = self.modules[f"{dense}.dense_block0.layers.layers.0"].in_channels if number else 8
            for layer in range(DENSE[number]):
                name = f"{dense}.dense_block{layer}"
                if layer not in layers:
                    del self.modules[dense]._modules[f"dense_block{layer}"]
                    continue
                self._depthwise(f"{name}.layers.layers.0", channels)
                self._norm(f"{name}.layers.layers.1", channels)
                self._dense(f"{name}.layers.layers.2", None, channels)
                begin = whole + layer * GROWTH[number]
                channels = [*channels, *range(begin, begin + GROWTH[number])]
        self._norm("head.norm", channels)
        self._dense("head.fc", None, channels)

    def _slice(self, name: str, key: str, rows: list[int] | None, columns: list[int] | None) -> None:
        module = self.modules[name]
        whole = getattr(module, key)
        part = whole if rows is None else whole[rows]
        part = part if columns is None else part[:, columns]
        self.names[f"{name}.{key}"] = nn.Parameter(part.detach().clone())
        self.rows[f"{name}.{key}"] = rows, columns
        setattr(module, key, self.names[f"{name}.{key}"])

    def _norm(self, name: str, channels: list[int]) -> None:
        for key in ("weight", "bias"):
            self._slice(name, key, channels, None)
        self.modules[name].normalized_shape = (len(channels),)

    def _depthwise(self, name: str, channels: list[int]) -> None:
        for key in ("weight", "bias"):
            self._slice(name, key, channels, None)
        module = self.modules[name]
        module.groups = module.in_channels = module.out_channels = len(channels)

    def _dense(self, name: str, outputs: list[int] | None, inputs: list[int]) -> None:
        self._slice(name, "weight", outputs, inputs)
        self._slice(name, "bias", outputs, None)

    def add_gradients(self, totals: dict[str, Tensor]) -> None:
        """Add the gradients where the weights come from."""
        for name, parameter in self.names.items():
            if parameter.grad is None:
                continue
            rows, columns = self.rows.get(name, (None, None))
            total = totals[name]
            row = torch.arange(len(total)) if rows is None else torch.tensor(rows)
            if columns is None:
                total[row] += parameter.grad
            else:
                total[row[:, None], torch.tensor(columns)[None]] += parameter.grad


DENSE_SUBNETS = ["1-1-1", "2-2-1", "[1]-[0.2]-2", "1-[1.2]-[1]", "2-0-[1]", "0-0-0", "2-3-1"]


def test_rdnet_has_dense_blocks():
    network = dense_net()
    expected = [("dense_stages.0.0", 2, False), ("dense_stages.1.2", 3, False), ("dense_stages.2.2", 2, False)]
    assert plan(network) == expected and all(stage.concatenates for stage in network.stages)
    fresh = copy.deepcopy(network.model)
    for parameter in fresh.parameters():
        nn.init.normal_(parameter, std=1e-6)
    assert plan(unravel(fresh, images(2, 32))) == expected
    with pytest.raises(UsageError, match=r"run in their own order only; got \[2, 0\]"):
        network(images(2, 32), "1-[2.0]-1")


def test_a_subnet_of_rdnet_is_one_whose_layers_are_gone():
    network = dense_net()
    network.eval()
    before, state = traces(network.model), copy.deepcopy(network.model.state_dict())
    x, chosen = images(2, 32, seed=1), [Subnet.parse(text) for text in DENSE_SUBNETS]
    cost = CostModel(network, x)
    with torch.no_grad():
        assert torch.equal(network(x), network.model(x))
        for subnet, shared in zip(chosen, network.run(x, chosen), strict=True):
            small = SmallDense(network.model, subnet.stages).model
            with FlopCounterMode(display=False) as counter:
                expected = small(x)
            close(shared, expected, subnet)
            close(network(x, subnet), expected, subnet)
            with network.only(subnet) as model:
                close(model(x), expected, subnet)
            assert cost.of(subnet).parameters == sum(parameter.numel() for parameter in small.parameters()), subnet
            assert cost.of(subnet).flops == counter.get_total_flops(), subnet
    expected = SmallDense(network.model, chosen[2].stages).model(x)
    with network.only(chosen[2]) as model:  # with gradients, slices are made in each call
        close(model(x), expected)
    assert traces(network.model) == before
    assert all(torch.equal(value, state[key]) for key, value in network.model.state_dict().items())


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_a_step_of_rdnet_is_that_of_small_nets(schedule):
    network = dense_net()
    x, y = images(4, 32, seed=2), torch.arange(4) % CLASSES
    chosen = [Subnet.parse(text) for text in ("1-1-1", "[1]-[0.2]-2")]
    main = copy.deepcopy(network.model)
    smalls = [SmallDense(network.model, subnet.stages) for subnet in chosen]
    logits = main(x)
    loss = nn.functional.cross_entropy(logits, y)
    for small in smalls:
        found = small.model(x).log_softmax(1)
        loss = loss + nn.functional.kl_div(found, logits.detach().softmax(1), reduction="batchmean") / 2
    loss.backward()
    expected = {name: parameter.grad for name, parameter in main.named_parameters()}
    for small in smalls:
        small.add_gradients(expected)
    method = StimulativeTraining(network, balance=1.0, balance_ramp=0, schedule=schedule, subnets_per_step=2)
    terms = method.backward(x, y, chosen)
    close(terms.loss.detach(), loss.detach())
    scale = max(value.abs().max().item() for value in expected.values())
    for name, parameter in network.model.named_parameters():
        assert (parameter.grad - expected[name]).abs().max().item() <= 1e-9 * scale, name
