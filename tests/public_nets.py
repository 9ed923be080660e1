"""Small forms of public networks from all over the field, and each written a second time with blocks left out by hand.

A net's second form takes the net, its inputs, and the names of the blocks that are skipped. It computes what the net
would compute if its author had written it without them.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Skipped = Collection[str]


def blocks_in(container: nn.Module, name: str, skipped: Skipped) -> list[Any]:
    """The children of a container that are not skipped."""
    return [child for key, child in container.named_children() if f"{name}.{key}" not in skipped]


def through(container: nn.Module, name: str, skipped: Skipped, x: Any, *others: Any) -> Any:
    """What comes out of blocks behind each other."""
    for block in blocks_in(container, name, skipped):
        x = block(x, *others)
    return x


# --- ESRGAN's generator: residual dense blocks in residual blocks ------------------------------------------------


class ResidualDense(nn.Module):
    """Convolutions that read all before them; a fifth of the last one's output is added to the input."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        widths = [width + number * growth for number in range(4)]
        self.convs = nn.ModuleList(nn.Conv2d(w, growth if w < widths[-1] else width, 3, 1, 1) for w in widths)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for conv in self.convs[:-1]:
            features.append(F.leaky_relu(conv(torch.cat(features, 1)), 0.2))
        return x + 0.2 * self.convs[-1](torch.cat(features, 1))


class RRDB(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (ResidualDense(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class ESRGAN(nn.Module):
    """Twice as large images; the long shortcut goes around all blocks."""

    def __init__(self, blocks: int = 2, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 1, 1)
        self.body = nn.Sequential(*[RRDB(width, 3) for _ in range(blocks)])
        self.behind = nn.Conv2d(width, width, 3, 1, 1)
        self.last = nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.behind(self.body(x))
        return self.last(F.interpolate(x, scale_factor=2))


def esrgan(net: ESRGAN, x: Tensor, skipped: Skipped) -> Tensor:
    x = start = net.first(x)
    for number, rrdb in enumerate(net.body):
        x = x + 0.2 * through(rrdb, f"body.{number}", skipped, x)
    return net.last(F.interpolate(start + net.behind(x), scale_factor=2))


class Shortcut(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class OlderESRGAN(nn.Module):
    """Its long shortcut is a module, which returns its input at zero parameters, and has none of its kind beside it."""

    def __init__(self, blocks: int = 2, width: int = 4) -> None:
        super().__init__()
        body = nn.Sequential(*[RRDB(width, 3) for _ in range(blocks)], nn.Conv2d(width, width, 3, 1, 1))
        last = nn.Upsample(scale_factor=2), nn.Conv2d(width, 3, 3, 1, 1)
        self.model = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), Shortcut(body), *last)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def older_esrgan(net: OlderESRGAN, x: Tensor, skipped: Skipped) -> Tensor:
    first, shortcut, *last = net.model
    x = start = first(x)
    *rrdbs, behind = shortcut.inside
    for number, rrdb in enumerate(rrdbs):
        x = x + 0.2 * through(rrdb, f"model.1.inside.{number}", skipped, x)
    return nn.Sequential(*last)(start + behind(x))


# --- a U-Net of residual blocks ----------------------------------------------------------------------------------


class ConvBlock(nn.Module):
    """Two convolutions and their norms, of one, two or three dimensions; a projection where the width changes."""

    def __init__(self, width_in: int, width: int, stride: int = 1, dims: int = 2) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
        self.conv1, self.norm1 = conv(width_in, width, 3, stride, 1, bias=False), norm(width)
        self.conv2, self.norm2 = conv(width, width, 3, 1, 1, bias=False), norm(width)
        changes = stride != 1 or width != width_in
        self.project = conv(width_in, width, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x)))))
        return y + self.project(x)


class ResidualUNet(nn.Module):
    """Down, in the middle, and up again with what was kept on the way down beside it."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        w = width
        self.stem = nn.Conv2d(3, w, 3, 1, 1)
        self.down1, self.pool1 = nn.Sequential(ConvBlock(w, w), ConvBlock(w, w)), nn.Conv2d(w, 2 * w, 2, 2)
        self.down2, self.pool2 = nn.Sequential(ConvBlock(2 * w, 2 * w), ConvBlock(2 * w, 2 * w)), nn.MaxPool2d(2)
        self.middle = nn.Sequential(*[ConvBlock(2 * w, 2 * w) for _ in range(3)])
        self.up2 = nn.Sequential(ConvBlock(4 * w, 2 * w), ConvBlock(2 * w, 2 * w))
        self.up1 = nn.Sequential(ConvBlock(3 * w, w), ConvBlock(w, w), ConvBlock(w, w))
        self.last = nn.Conv2d(w, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(self.stem(x))
        second = self.down2(self.pool1(first))
        x = F.interpolate(self.middle(self.pool2(second)), scale_factor=2)
        x = F.interpolate(self.up2(torch.cat([x, second], 1)), scale_factor=2)
        return self.last(self.up1(torch.cat([x, first], 1)))


def residual_unet(net: ResidualUNet, x: Tensor, skipped: Skipped) -> Tensor:
    first = through(net.down1, "down1", skipped, net.stem(x))
    second = through(net.down2, "down2", skipped, net.pool1(first))
    x = F.interpolate(through(net.middle, "middle", skipped, net.pool2(second)), scale_factor=2)
    x = F.interpolate(through(net.up2, "up2", skipped, torch.cat([x, second], 1)), scale_factor=2)
    return net.last(through(net.up1, "up1", skipped, torch.cat([x, first], 1)))


# --- DiT: every block is told the time and the class, by gates that start at zero ---------------------------------


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2))


class DiTBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition))[:, None].chunk(6, -1)
        x = x + gate1 * self.attention(F.layer_norm(x, x.shape[-1:]) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(F.layer_norm(x, x.shape[-1:]) * (1 + scale2) + shift2)


class DiT(nn.Module):
    def __init__(self, width: int = 8, blocks: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.times, self.classes = nn.Linear(4, width), nn.Embedding(5, width)
        self.blocks = nn.ModuleList(DiTBlock(width) for _ in range(blocks))
        self.last = nn.Linear(width, 6)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        x, condition = self.patches(x).flatten(2).transpose(1, 2), self.condition(time, label)
        for block in self.blocks:
            x = block(x, condition)
        return self.last(x)

    def condition(self, time: Tensor, label: Tensor) -> Tensor:
        return self.times(waves(time, 4).to(self.times.weight)) + self.classes(label)


def waves(time: Tensor, width: int) -> Tensor:
    angles = time[:, None] / 10.0 ** torch.arange(width // 2)
    return torch.cat([angles.cos(), angles.sin()], 1)


def dit(net: DiT, x: Tensor, time: Tensor, label: Tensor, skipped: Skipped) -> Tensor:
    x = net.patches(x).flatten(2).transpose(1, 2)
    return net.last(through(net.blocks, "blocks", skipped, x, net.condition(time, label)))


# --- ResNets of one and three dimensions -------------------------------------------------------------------------


class PlainResNet(nn.Module):
    """A ResNet for series or videos."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.stem = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](3, 4, 3, 1, 1)
        self.layer1 = nn.Sequential(*[ConvBlock(4, 4, dims=dims) for _ in range(2)])
        self.layer2 = nn.Sequential(ConvBlock(4, 6, 2, dims), *[ConvBlock(6, 6, dims=dims) for _ in range(2)])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer2(self.layer1(self.stem(x))).flatten(2).mean(2))


def plain_resnet(net: PlainResNet, x: Tensor, skipped: Skipped) -> Tensor:
    x = through(net.layer1, "layer1", skipped, net.stem(x))
    return net.head(through(net.layer2, "layer2", skipped, x).flatten(2).mean(2))


def r3d(net: Any, x: Tensor, skipped: Skipped) -> Tensor:
    """torchvision's video ResNet."""
    x = net.stem(x)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = through(net.get_submodule(name), name, skipped, x)
    return net.fc(net.avgpool(x).flatten(1))


# --- guided diffusion's U-Net: containers look at the class of what is in them -------------------------------------


class TimestepBlock(nn.Module):
    """A module that is told the time."""


class TimestepEmbedSequential(nn.Sequential, TimestepBlock):
    """Tells the time to those modules in it that ask for it."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, time) if isinstance(layer, TimestepBlock) else layer(x)
        return x


class TimedBlock(TimestepBlock):
    def __init__(self, width_in: int, width: int, timed: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(2, width_in), nn.Conv2d(width_in, width, 3, 1, 1)
        self.time = nn.Linear(timed, width)
        self.norm2, self.conv2 = nn.GroupNorm(2, width), nn.Conv2d(width, width, 3, 1, 1)
        self.skip = nn.Identity() if width == width_in else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class PixelAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.GroupNorm(2, width), Attention(width)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.attention(self.norm(x).flatten(2).transpose(1, 2))
        return x + pixels.transpose(1, 2).unflatten(2, x.shape[2:])


class GuidedUNet(nn.Module):
    def __init__(self, width: int = 4, blocks: int = 3) -> None:
        super().__init__()
        wide, timed = 2 * width, 6
        self.time = nn.Sequential(nn.Linear(4, timed), nn.SiLU(), nn.Linear(timed, timed))
        down: list[list[nn.Module]] = [[nn.Conv2d(3, width, 3, 1, 1)]]
        down += [[TimedBlock(width, width, timed)] for _ in range(blocks)]
        down += [[nn.Conv2d(width, width, 3, 2, 1)]]
        down += [[TimedBlock(w, wide, timed), PixelAttention(wide)] for w in (width, *[wide] * (blocks - 1))]
        self.input_blocks = nn.ModuleList(TimestepEmbedSequential(*layers) for layers in down)
        self.middle_block = TimestepEmbedSequential(
            TimedBlock(wide, wide, timed), PixelAttention(wide), TimedBlock(wide, wide, timed)
        )
        kept = [width] * (blocks + 2) + [wide] * blocks
        up: list[list[nn.Module]] = [
            [TimedBlock(wide + kept.pop(), wide, timed), PixelAttention(wide)] for _ in range(blocks + 1)
        ]
        up[-1].append(nn.Upsample(scale_factor=2))
        up += [[TimedBlock(w + kept.pop(), width, timed)] for w in (wide, *[width] * blocks)]
        self.output_blocks = nn.ModuleList(TimestepEmbedSequential(*layers) for layers in up)
        self.out = nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        told, kept = self.time(waves(time, 4).to(x)), []
        for layers in self.input_blocks:
            x = layers(x, told)
            kept.append(x)
        x = self.middle_block(x, told)
        for layers in self.output_blocks:
            x = layers(torch.cat([x, kept.pop()], 1), told)
        return self.out(x)


def guided_unet(net: GuidedUNet, x: Tensor, time: Tensor, skipped: Skipped) -> Tensor:
    told, kept = net.time(waves(time, 4).to(x)), []

    def run(layers: nn.Module, name: str, x: Tensor) -> Tensor:
        for layer in [] if name in skipped else blocks_in(layers, name, skipped):
            x = layer(x, told) if isinstance(layer, TimedBlock) else layer(x)
        return x

    for number, layers in enumerate(net.input_blocks):
        x = run(layers, f"input_blocks.{number}", x)
        kept.append(x)  # a block that is gone leaves what it was given for the way up
    x = run(net.middle_block, "middle_block", x)
    for number, layers in enumerate(net.output_blocks):
        x = run(layers, f"output_blocks.{number}", torch.cat([x, kept.pop()], 1))
    return net.out(x)


# --- sound: a WaveNet's sum of all layers, and the parallel blocks of HiFi-GAN -----------------------------------


class WaveLayer(nn.Module):
    """A gated convolution; part of what comes out is added to the stream, the other part to the sum of all layers."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, 2 * width, 3, dilation=dilation, padding=dilation)
        self.stream, self.sum = nn.Conv1d(width, width, 1), nn.Conv1d(width, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = self.conv(x).chunk(2, 1)
        y = value.tanh() * gate.sigmoid()
        return (x + self.stream(y)) * math.sqrt(0.5), self.sum(y)


class WaveNet(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, width, 1)
        self.layers = nn.ModuleList(WaveLayer(width, 2**number) for number in range(4))
        self.last = nn.Conv1d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x), 0
        for layer in self.layers:
            x, part = layer(x)
            total = total + part
        return self.last(F.relu(total))


def wavenet(net: WaveNet, x: Tensor, skipped: Skipped) -> Tensor:
    x = net.first(x)
    parts = []
    for layer in blocks_in(net.layers, "layers", skipped):
        x, part = layer(x)
        parts.append(part)
    return net.last(F.relu(torch.stack(parts).sum(0)))


class Kernels(nn.Module):
    """HiFi-GAN's residual block: dilated convolutions behind each other, each with a shortcut in the block's code."""

    def __init__(self, width: int, kernel: int, normed: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            normed(nn.Conv1d(width, width, kernel, dilation=d, padding=(kernel - 1) * d // 2)) for d in (1, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = x + conv(F.leaky_relu(x, 0.1))
        return x


class HiFiGAN(nn.Module):
    """Upsampling, then the mean of several blocks that all read the same."""

    def __init__(self, normed: Callable[[nn.Module], nn.Module] = torch.nn.utils.parametrizations.weight_norm) -> None:
        super().__init__()
        self.first = normed(nn.Conv1d(3, 8, 3, 1, 1))
        self.ups = nn.ModuleList(normed(nn.ConvTranspose1d(2 * width, width, 4, 2, 1)) for width in (4, 2))
        self.blocks = nn.ModuleList(Kernels(width, kernel, normed) for width in (4, 2) for kernel in (3, 5, 7))
        self.last = normed(nn.Conv1d(2, 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for level, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            x = sum(block(x) for block in self.blocks[3 * level : 3 * level + 3]) / 3
        return self.last(x).tanh()


def hifigan(net: HiFiGAN, x: Tensor, skipped: Skipped) -> Tensor:
    x = net.first(x)
    for level, up in enumerate(net.ups):
        x = up(F.leaky_relu(x, 0.1))
        outputs = [x if f"blocks.{n}" in skipped else net.blocks[n](x) for n in range(3 * level, 3 * level + 3)]
        x = (outputs[0] + outputs[1] + outputs[2]) / 3
    return net.last(x).tanh()


# --- sums that the code around the modules computes ----------------------------------------------------------------


class SimpleViT(nn.Module):
    """A vision transformer whose layers are pairs in a list, added up by the model itself."""

    def __init__(self, width: int = 8, layers: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Sequential(nn.LayerNorm(width), Attention(width)),
                    nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width)),
                ]
            )
            for _ in range(layers)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for attention, mlp in self.layers:
            x = attention(x) + x
            x = mlp(x) + x
        return self.head(x.mean(1))


def simple_vit(net: SimpleViT, x: Tensor, skipped: Skipped) -> Tensor:
    x = net.patches(x).flatten(2).transpose(1, 2)
    for number, parts in enumerate(net.layers):
        for part in blocks_in(parts, f"layers.{number}", skipped):
            x = part(x) + x
    return net.head(x.mean(1))


class GraphNet(nn.Module):
    """Messages between the nodes of a graph, with the norm and the activation in the model's own code."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.messages = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.last = nn.Linear(width, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.first(x)
        for norm, message in zip(self.norms, self.messages, strict=True):
            x = x + F.silu(edges @ message(norm(x)))
        return self.last(x)


def graph_net(net: GraphNet, x: Tensor, edges: Tensor, skipped: Skipped) -> Tensor:
    x = net.first(x)
    for number, message in enumerate(net.messages):
        if f"messages.{number}" not in skipped:
            x = x + F.silu(edges @ message(net.norms[number](x)))
    return net.last(x)


# --- an MLP-Mixer whose blocks are sequences of two shortcuts of one class ----------------------------------------


class Mixed(nn.Module):
    """Tokens are mixed by a matrix."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.mix = nn.Linear(tokens, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x.transpose(1, 2)).transpose(1, 2)


class SequenceOfShortcuts(nn.Module):
    def __init__(self, depth: int = 3, tokens: int = 16, width: int = 6) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 2, 2), nn.Linear(width, 5)
        self.blocks = nn.Sequential(*[self.block(tokens, width) for _ in range(depth)])

    @staticmethod
    def block(tokens: int, width: int) -> nn.Sequential:
        mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        return nn.Sequential(Shortcut(nn.Sequential(nn.LayerNorm(width), Mixed(tokens))), Shortcut(mlp))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.first(x).flatten(2).transpose(1, 2)).mean(1))


def sequence_of_shortcuts(net: SequenceOfShortcuts, x: Tensor, skipped: Skipped) -> Tensor:
    x = net.first(x).flatten(2).transpose(1, 2)
    return net.last(through(net.blocks, "blocks", skipped, x).mean(1))


# --- ENet: a PReLU behind the addition --------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)
        self.inside, self.behind = nn.PReLU(), nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(x + self.expand(self.inside(self.reduce(x))))


class ENet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 5, 2, 2)
        self.blocks = nn.Sequential(*[Bottleneck(4) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.first(x)))


def enet(net: ENet, x: Tensor, skipped: Skipped) -> Tensor:
    return net.last(through(net.blocks, "blocks", skipped, net.first(x)))


# --- a dual path network: one stream is added to, one grows ------------------------------------------------------


class DualPath(nn.Module):
    def __init__(self, width: int, grown: int, grows: int) -> None:
        super().__init__()
        self.width = width
        self.norm, self.conv = nn.BatchNorm2d(width + grown), nn.Conv2d(width + grown, width + grows, 3, 1, 1)

    def forward(self, x: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(F.relu(self.norm(torch.cat([x, beside], 1))))
        return x + y[:, : self.width], torch.cat([beside, y[:, self.width :]], 1)


class DPN(nn.Module):
    def __init__(self, width: int = 4, grows: int = 2) -> None:
        super().__init__()
        self.grows = grows
        self.first = nn.Conv2d(3, width + grows, 1)
        self.blocks = nn.ModuleList(DualPath(width, (number + 1) * grows, grows) for number in range(3))
        self.last = nn.Linear(width + 4 * grows, 5)

    def forward(self, x: Tensor) -> Tensor:
        x, beside = self.first(x).tensor_split([-self.grows], 1)
        for block in self.blocks:
            x, beside = block(x, beside)
        return self.last(torch.cat([x, beside], 1).mean((2, 3)))


def dpn(net: DPN, x: Tensor, skipped: Skipped) -> Tensor:
    x, beside = net.first(x).tensor_split([-net.grows], 1)
    for number, block in enumerate(net.blocks):
        if f"blocks.{number}" in skipped:
            beside = F.pad(beside, (0, 0, 0, 0, 0, net.grows))
        else:
            x, beside = block(x, beside)
    return net.last(torch.cat([x, beside], 1).mean((2, 3)))


# --- all of them -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Net:
    """A net, its inputs, its stages (name, number of blocks, whether the first always runs), and the net by hand."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    stages: list[tuple[str, int, bool]]
    by_hand: Callable[..., Tensor]


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def images() -> tuple[Tensor, ...]:
    return (drawn(2, 3, 8, 8),)


TIMES, LABELS = torch.tensor([3.0, 8.0], dtype=torch.float64), torch.tensor([1, 4])

NETS = {
    # an RRDB is no block: its dense blocks are residual themselves, so that it returns 1.2 times its input at zero
    # parameters; the dense blocks are
    "ESRGAN": Net(ESRGAN, images, [("body.0", 3, False), ("body.1", 3, False)], esrgan),
    "ESRGAN, with a module around its body": Net(
        OlderESRGAN, images, [("model.1.inside.0", 3, False), ("model.1.inside.1", 3, False)], older_esrgan
    ),
    "MLP-Mixer of shortcuts": Net(SequenceOfShortcuts, images, [("blocks", 3, False)], sequence_of_shortcuts),
    "ENet": Net(ENet, images, [("blocks", 4, False)], enet),
    "DPN": Net(DPN, images, [("blocks", 3, False)], dpn),
    "residual U-Net": Net(
        ResidualUNet,
        images,
        [("down1", 2, False), ("down2", 2, False), ("middle", 3, False), ("up2", 2, True), ("up1", 3, True)],
        residual_unet,
    ),
    "DiT": Net(DiT, lambda: (*images(), TIMES, LABELS), [("blocks", 4, False)], dit),
    "1-D ResNet": Net(
        lambda: PlainResNet(1), lambda: (drawn(2, 3, 12),), [("layer1", 2, False), ("layer2", 3, True)], plain_resnet
    ),
    "video ResNet": Net(
        lambda: PlainResNet(3),
        lambda: (drawn(2, 3, 4, 6, 6),),
        [("layer1", 2, False), ("layer2", 3, True)],
        plain_resnet,
    ),
    # down, the convolution in front and the blocks that widen are entries; up, a block reads what comes from below
    # beside what was kept, so that only attention keeps what it is given
    "guided diffusion": Net(
        GuidedUNet,
        lambda: (*images(), TIMES),
        [
            ("input_blocks.0-3", 4, True),
            ("input_blocks.5-7", 3, True),
            ("middle_block", 3, False),
            ("output_blocks.*.1", 4, False),
        ],
        guided_unet,
    ),
    # the first layer always runs: how much a skipped one adds to the sum is shaped as what the one before adds
    "WaveNet": Net(WaveNet, lambda: (drawn(2, 3, 12),), [("layers", 4, True)], wavenet),
    # blocks of another width are another stage, though they are in one list
    "HiFi-GAN": Net(
        HiFiGAN, lambda: (drawn(2, 3, 4),), [("blocks.0-2", 3, False), ("blocks.3-5", 3, False)], hifigan
    ),
    "sums of pairs": Net(SimpleViT, images, [("layers.*.0", 3, False), ("layers.*.1", 3, False)], simple_vit),
    "sums of messages": Net(
        GraphNet, lambda: (drawn(5, 3), (drawn(5, 5) > 0).double()), [("messages.*", 3, False)], graph_net
    ),
}  # fmt: skip
