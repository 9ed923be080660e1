"""Two processes that train together, started once for all tests that need them: what each of them finds, in a file."""

import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from interrupting import Count
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

import stimulative
from stimulative import StimulativeTraining
from stimulative.analysis import evaluate
from stimulative.errors import UsageError
from stimulative.ranks import World
from stimulative.runs import Epoch
from stimulative.training import Callback, Step, Trainer, load_recipe, train
from stimulative.training.together import Processes

SMALL = {
    "model.name": "timm/vit_tiny_patch16_224",
    "model.arguments": {"img_size": 8, "patch_size": 4, "depth": 3, "embed_dim": 24, "num_heads": 2},
    "data.batch_size": 64,
    "data.crop_padding": 0,
    "method.subnets_per_step": 2,
    "method.balance_ramp": 0.0,
    "schedule.epochs": 1,
    "optimizer.lr": 0.01,
    "training.device": "cpu",
    "training.loggers": [],
    "training.log_every": 4,
    "evaluation.calibration_images": 64,
}
"""A transformer, whose layers see no batch: two processes train it as one does."""

NOISY = {**SMALL, "model.arguments": {**SMALL["model.arguments"], "proj_drop_rate": 0.3}, "schedule.max_steps": 3}
NOISY |= {"training.accumulate": 3}
RUNS = {
    "joint": SMALL | {"schedule.max_steps": 9},
    "flat": SMALL | {"schedule.max_steps": 9, "training.strategy": "flat"},
    "lean": SMALL | {"schedule.max_steps": 9, "method.schedule": "lean", "training.accumulate": 2},
    "noisy": NOISY,
}
STOPPED = {"seen": SMALL, "noisy-stopped": NOISY}
"""Runs that are stopped in the middle of an epoch."""
STEPS, WRAPS = 3, ("plain", "static_graph", "find_unused_parameters", "flat", "lean")


def model() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, **SMALL["model.arguments"], in_chans=3)


def batch(step: int, rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(10 * step + rank)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.randint(5, (4,), generator=generator)


def stimulated(net: nn.Module, **settings: Any) -> StimulativeTraining:
    network = stimulative.unravel(net, torch.randn(2, 3, 8, 8))
    return StimulativeTraining(network, subnets_per_step=2, balance=2.0, balance_ramp=0.0, **settings)


class Stop(Callback):
    """Asks for the end in one of the processes, behind a step."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step, self.seen = rank, step, 0

    def on_step(self, trainer: Trainer, step: Step) -> None:
        self.seen += 1
        if self.seen == self.step and trainer.processes.rank == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)


class Leave(Callback):
    """Kills the second process behind the first epoch, before that is saved."""

    def on_epoch(self, trainer: Trainer, epoch: Epoch) -> None:
        if trainer.processes.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def own_loop(rank: int, processes: Processes, wrap: str) -> dict[str, Tensor]:
    """What a loop of one's own trains in a wrapper, or with gradients averaged by hand."""
    net = model()
    method = stimulated(net, schedule="lean" if wrap == "lean" else "joint").train()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    options = {} if wrap == "plain" else {wrap: True}
    wrapped = method if wrap in ("flat", "lean") else DistributedDataParallel(method, **options)
    for step in range(STEPS):
        x, y = batch(step, rank)
        if wrap == "lean":
            method.backward(x, y)
        else:
            wrapped(x, y).loss.backward()
        if wrapped is method:
            processes.average_gradients(method.parameters())
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach().clone() for name, value in net.named_parameters()}


def exchanges(rank: int, processes: Processes) -> dict[str, Any]:
    """Each of the things that processes do together, once."""
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.Linear(2, 1)).double()
    net[3].float()
    net.register_buffer("mask", torch.full((2,), torch.finfo(torch.float32).min))
    net.register_buffer("constant", torch.tensor([0.1, 2e38]))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(rank)
    net[1].running_mean.fill_(rank)
    net[1].num_batches_tracked.fill_(7 + rank)
    net[0].weight.grad = torch.full((2, 2), float(rank), dtype=torch.float64)
    if rank == 1:
        net[2].weight.grad = torch.ones(2, 2, dtype=torch.float64)
    net[3].bias.grad = torch.full((1,), 4.0)
    processes.average_gradients(net.parameters())
    gradients = {name: one.grad for name, one in net.named_parameters()}
    processes.average_buffers(net, [net[1].running_mean, net[1].running_var])
    buffers = dict(net.named_buffers())
    processes.share(net)
    return {
        "gradients": gradients,
        "buffers": {name: value.clone() for name, value in buffers.items()},
        "parameters": {name: value.detach().clone() for name, value in net.named_parameters()},
        "greatest": processes.greatest(3 + rank),
        "mean": processes.mean(torch.tensor([1.0, 2.0]) * (1 + rank)),
        "gathered": processes.gathered({"rank": rank}),
    }


def refusals(rank: int, processes: Processes, out: Path) -> dict[str, str]:
    """What only one process cannot use, and what they cannot do together."""
    found = {}
    recipe = load_recipe("digits", SMALL | {"schedule.max_steps": 1, "seed": rank, "optimizer.lr": 0.01 * (1 + rank)})
    for name, work in (
        ("recipes", lambda: train(recipe, out / f"apart-{rank}", progress=False)),
        ("runs", lambda: evaluate(out / f"apart-{rank}")),
    ):
        try:
            work()
        except UsageError as error:
            found[name] = f"{type(error).__name__}: {error}"
    for name, ranks in (("second", (1,)), ("both", (0, 1))):
        try:
            with processes.agreed():
                if rank in ranks:
                    raise UsageError(f"rank {rank} finds no file")
        except UsageError as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def trained(rank: int, out: Path) -> dict[str, Any]:
    """Runs of the whole loop: as they end, and stopped in the middle."""
    found: dict[str, Any] = {"warnings": []}
    for name, recipe in RUNS.items():
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            train(load_recipe("digits", recipe), out / name, progress=False)
        found["warnings"] += [str(one.message) for one in heard if issubclass(one.category, UserWarning)]
    draws = torch.rand(4)  # of this process's own stream
    for number, (name, recipe) in enumerate(STOPPED.items()):
        try:
            train(load_recipe("digits", recipe), out / name, progress=False, callbacks=[Stop(1 - number, 5)])
        except KeyboardInterrupt as error:
            found[name] = str(error)
    count = Count()
    train(load_recipe("digits", NOISY), out / "noisy-stopped", resume=True, progress=False, callbacks=[count])
    grown = Trainer(load_recipe("digits", SMALL), out / "begun-by-one", progress=False)
    return found | {"draws": draws, "resumed": [step.number for step in count.steps], "grown": grown.run().main}


def sharded(rank: int) -> dict[str, Any]:
    """Parameters that are divided among processes (FSDP2)."""
    from torch.distributed.fsdp import fully_shard

    net = model()
    method = stimulated(net).train()
    for block in net.blocks:
        fully_shard(block)
    fully_shard(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for step in range(STEPS):
        method(*batch(step, rank)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found: dict[str, Any] = {name: value.full_tensor().detach() for name, value in net.named_parameters()}
    try:
        stimulated_lean = stimulated(model(), schedule="lean").train()
        fully_shard(stimulated_lean.network.model)
        stimulated_lean.backward(*batch(0, rank))
        refused = "nothing"
    except UsageError as error:
        refused = str(error)
    return {"joint": found, "lean": refused}


def work(rank: int, port: int, out: Path) -> None:
    """What each process does; all that it finds is in ``out``."""
    torch.set_num_threads(1)
    world = World(rank, 2, rank, 2, "torchrun", port=port)
    os.environ.update(world.variables())
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    processes, found = Processes(world), {}
    parts = {
        "exchanges": lambda: exchanges(rank, processes),
        "refusals": lambda: refusals(rank, processes, out),
        "loops": lambda: {wrap: own_loop(rank, processes, wrap) for wrap in WRAPS},
        "trained": lambda: trained(rank, out),
        "sharded": lambda: sharded(rank),
    }
    for name, part in parts.items():
        try:
            found[name] = part()
        except Exception:
            found[name] = traceback.format_exc()
            break
    torch.save(found, out / f"rank{rank}.pt")
    sys.stdout.flush()
    os._exit(0)
