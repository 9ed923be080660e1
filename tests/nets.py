"""Small networks that the tests of unraveling share. Each takes images of shape (B, 3, 8, 8)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 4


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Double precision, and every parameter and statistic moved away from its initial value (zero gains above all)."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.dim() < 2 else 0.02
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator, dtype=torch.float64))
            if name.endswith("running_var"):
                buffer.mul_(0.5 + torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
    return model


def images(count: int = 4, size: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


class BasicBlock(nn.Module):
    """A post-activation residual block, with a projection where it changes stride or width."""

    def __init__(self, width_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.project = nn.Conv2d(width_in, width, 1, stride) if stride != 1 or width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.act(out + (x if self.project is None else self.project(x)))


class SequentialNet(nn.Module):
    """Two stages as ``Sequential``: 3 blocks without and 4 blocks with an entry block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.act = nn.ReLU(inplace=True)
        self.stage1 = nn.Sequential(*[BasicBlock(6, 6) for _ in range(3)])
        self.stage2 = nn.Sequential(BasicBlock(6, 8, 2), *[BasicBlock(8, 8) for _ in range(3)])
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        return self.head(self.stage2(self.stage1(x)).mean((2, 3)))


class MLPBlock(nn.Module):
    """A residual block over the channels of (B, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class LoopedNet(nn.Module):
    """Five blocks in a ``ModuleList`` that forward loops over, ``rounds`` times with the same weights."""

    def __init__(self, rounds: int = 1, width: int = 6) -> None:
        super().__init__()
        self.rounds = rounds
        self.embed = nn.Linear(3 * 8 * 8, width)
        self.blocks = nn.ModuleList([MLPBlock(width) for _ in range(5)])
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1))
        for _ in range(self.rounds):
            for block in self.blocks:
                x = block(x)
        return self.head(x)


class AttributeNet(nn.Module):
    """Blocks that are attributes of the model, registered in another order than they run in if asked to."""

    def __init__(self, backwards: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 8 * 8, 6)
        for number in reversed(range(4)) if backwards else range(4):
            self.add_module(f"block{number}", MLPBlock(6))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1))
        for number in range(4):
            x = self.get_submodule(f"block{number}")(x)
        return self.head(x)


class PreActivationBlock(nn.Module):
    """Without a norm in front, the in-place activation writes into what the block before returned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.act(x))


class PreActivationNet(nn.Module):
    """Four blocks that write into their input; without a stem the first one writes into the model's input."""

    def __init__(self, stem: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 3, 1, 1) if stem else None
        self.blocks = nn.Sequential(*[PreActivationBlock(3) for _ in range(4)])
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.stem is None else self.stem(x)
        return self.head(self.blocks(x).mean((2, 3)))


class AddingBlock(nn.Module):
    """Adds into its input: an identity at zero parameters that writes all the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x += self.linear(x.tanh())
        return x


class AddingNet(nn.Module):
    """Four blocks that return the very tensor that they were given; the first one the model's input, if asked to."""

    def __init__(self, embed: bool = True) -> None:
        super().__init__()
        width = 5 if embed else 3 * 8 * 8
        self.embed = nn.Linear(3 * 8 * 8, width) if embed else None
        self.blocks = nn.Sequential(*[AddingBlock(width) for _ in range(4)])
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(self.blocks(x if self.embed is None else self.embed(x)))


class GlueNet(nn.Module):
    """Code between the modules writes into their outputs, and one of them is used again at the end.

    ``where`` says which of them: after the stem, between the stages, after the head.
    """

    def __init__(self, where: str = "stem middle head") -> None:
        super().__init__()
        self.where = where.split()
        self.stem = nn.Linear(3 * 8 * 8, 5)
        self.first = nn.Sequential(*[MLPBlock(5) for _ in range(3)])
        self.second = nn.Sequential(*[MLPBlock(5) for _ in range(3)])
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        start = self.stem(x.flatten(1))
        if "stem" in self.where:
            start.mul_(2.0).add_(1.0)
        x = self.first(start)
        if "middle" in self.where:
            x = x.mul_(3.0)
        x = self.head(self.second(x) + 0.5 * start)
        if "head" in self.where:
            x.sub_(4.0)
        return x


class DropoutNet(nn.Module):
    """Dropout in front of, inside of and after the blocks."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.drop(self.linear(x))

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 8 * 8, 6)
        self.drop = nn.Dropout(0.5, inplace=inplace)
        self.blocks = nn.Sequential(*[self.Block() for _ in range(4)])
        self.drop_after = nn.Dropout(0.5, inplace=inplace)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop_after(self.blocks(self.drop(self.embed(x.flatten(1))))))


class NormBlock(nn.Module):
    """BatchNorm (its momentum given, or None for a cumulative average) and InstanceNorm with statistics."""

    def __init__(self, width: int, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width, momentum=momentum)
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.instance = nn.InstanceNorm2d(width, affine=True, track_running_stats=True)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.relu(self.instance(self.conv(F.relu(self.bn(x))))))


class NormNet(nn.Module):
    """Several kinds of layers with running statistics, before, in and after the blocks; and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, 1, 1, bias=False)
        self.norm = nn.InstanceNorm2d(5, track_running_stats=True)
        self.blocks = nn.Sequential(NormBlock(5), NormBlock(5, momentum=None), NormBlock(5, momentum=0.3), NormBlock(5))
        self.unused = nn.BatchNorm2d(5)
        self.last = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.blocks(self.norm(self.stem(x))).square().mean((2, 3))))


class StatefulBlock(nn.Module):
    """Takes keyword arguments, returns its stream and a state, each of which it adds to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.update = nn.Linear(width, width // 2)

    def forward(self, x: Tensor, *, state: Tensor, scale: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        return x + scale * self.linear(x), {"state": state + self.update(x.tanh())}


class StatefulNet(nn.Module):
    """Blocks with keyword arguments that return a tuple with a dictionary in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 8 * 8, 6)
        self.blocks = nn.ModuleList([StatefulBlock(6) for _ in range(4)])
        self.head = nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1))
        state = {"state": x[:, :3].sin()}
        for block in self.blocks:
            x, state = block(x, **state, scale=0.7)
        return self.head(torch.cat([x, state["state"]], 1))


class ConditionedBlock(nn.Module):
    """Its first argument has the shape of the stream, which is the second one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, width)

    def forward(self, condition: Tensor, x: Tensor) -> Tensor:
        return x + self.linear(torch.cat([condition, x], 1)).tanh()


class ConditionedNet(nn.Module):
    """Every block reads a tensor that goes around all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 8 * 8, 4)
        self.condition = nn.Linear(3 * 8 * 8, 4)
        self.blocks = nn.ModuleList([ConditionedBlock(4) for _ in range(4)])
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        condition, x = self.condition(x).sin(), self.embed(x)
        for block in self.blocks:
            x = block(condition, x)
        return self.head(x)


class CachingNet(LoopedNet):
    """Makes a buffer in its first forward, and draws random numbers in each."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "cache"):
            self.register_buffer("cache", torch.ones(len(x)))
        return super().forward(x + 0 * torch.rand(()))


class FailingNet(LoopedNet):
    """Fails after its blocks for inputs whose first number is above 100."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if x.flatten()[0] > 100:
            raise ArithmeticError("too large")
        return out
