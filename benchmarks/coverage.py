"""Which of timm's, torchvision's and Transformers' models can be unraveled, run at any depth, and taken apart.

For every model file of the installed timm the smallest model in it that has a stage of two blocks or more, and for
every classification family of torchvision likewise: it is unraveled, its main net is compared with the model itself,
its smallest and a middle subnet run, one step of stimulative training is taken, and both are taken out as modules of
their own and compared with what they were in place. Each model ends as

  found          all of that worked
  not residual   no block of it can be skipped, for the reason in `NOT_RESIDUAL`
  failed         anything else

Of every architecture that Transformers builds from a config a small model is made, if its config can be made small
without knowing it (``small_models``); three subnets of it are taken out, saved, loaded again, and run (``reloading``).
It ends as found, not residual, not tried, or failed.

Models are built with random weights, for images of the size that they are made for. Each is tried in a process of its
own, which is ended after `--seconds`. With `--keep`, what each ended as is added to a file at once; a later run goes on
from there, and tries again what had failed.

    python benchmarks/coverage.py --json
    python benchmarks/coverage.py --page docs/coverage.md --keep coverage.jsonl
    python benchmarks/coverage.py --only resnet,torchvision/vgg
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import reloading
import small_models
from common import arguments, report
from coverage_page import STATUSES, page, summary_line, table

MOST_TRIED = 6
"""Models of a family that are tried, the smallest first, until one has blocks to skip."""

NOT_RESIDUAL = {
    "timm/selecsls": "each block concatenates what its convolutions make; nothing is added to its input",
    "timm/vgg": "convolutions one after the other, without shortcuts",
    "timm/inception_v3": "each module concatenates its branches; nothing is added to its input",
    "timm/inception_v4": "each module concatenates its branches; nothing is added to its input",
    "timm/nasnet": "each cell reads the two cells before it and concatenates what it makes of them",
    "timm/pnasnet": "each cell reads the two cells before it and concatenates what it makes of them",
    "torchvision/alexnet": "convolutions one after the other, without shortcuts",
    "torchvision/googlenet": "each module concatenates its branches; nothing is added to its input",
    "torchvision/inception": "each module concatenates its branches; nothing is added to its input",
    "torchvision/shufflenetv2": "each block replaces half of the channels and shuffles them; nothing is added",
    "torchvision/squeezenet": "each module concatenates its branches; nothing is added to its input",
    "torchvision/vgg": "convolutions one after the other, without shortcuts",
}
"""Families that are known to have no residual blocks, and why; that they have none is what the run has to find."""


CLASSES = 10


class NoClassifier(Exception):
    """A model that does not return logits of classes, such as an encoder without a head."""


def main() -> None:
    options = arguments(__doc__ or "", seconds=600, jobs=1, only="", page="", keep="")
    only = [name for name in options.only.split(",") if name]
    keep = Path(options.keep) if options.keep else None
    result = cover(only=only, seconds=options.seconds, jobs=options.jobs, keep=keep)
    if options.page:
        Path(options.page).write_text(page(result), encoding="utf-8")
    report(options, result, [*table(result), summary_line(result["models"])])


def cover(*, only: Sequence[str] = (), seconds: float = 600, jobs: int = 1, keep: Path | None = None) -> dict[str, Any]:
    """Try one model of every family.

    Args:
        only: Families to try, such as ``timm/resnet`` or ``resnet``; all of them by default.
        seconds: How long one family may take.
        jobs: How many are tried at once; the largest take 13 GiB each.
        keep: A file of JSON lines, one a family, that each is added to when it has been tried, unless it failed; the
            families that it holds are not tried again.

    Returns:
        ``found``, ``not_residual``, ``not_tried`` and ``failed`` as counts, and ``models``: by family its ``status``,
        ``model``, ``stages`` (name and blocks), ``subnets``, ``seconds`` and, unless found, ``reason``; those of
        Transformers also have ``outcomes`` of saving and loading.
    """
    families = [
        family
        for family in (*timm_families(), *torchvision_families(), *transformers_families())
        if not only or family in only or family.partition("/")[2] in only
    ]
    kept = {} if keep is None or not keep.exists() else dict(map(json.loads, keep.read_text("utf-8").splitlines()))
    models = {family: kept[family] for family in families if family in kept}
    for family, found in _in_processes([family for family in families if family not in kept], seconds, jobs):
        models[family] = found
        if keep is not None and found["status"] != "failed":
            with keep.open("a", encoding="utf-8") as file:
                file.write(json.dumps([family, found]) + "\n")
        why = f" ({found['reason']})" if found["status"] == "failed" else ""
        print(f"{len(models)}/{len(families)} {family}: {found['status']}{why}", file=sys.stderr, flush=True)
    models = dict(sorted(models.items()))
    counts = {
        status.replace(" ", "_"): sum(found["status"] == status for found in models.values()) for status in STATUSES
    }
    return {**counts, "models": models, "versions": _versions()}


def timm_families() -> list[str]:
    """The model files of the installed timm that hold models."""
    import timm

    return [f"timm/{module}" for module in timm.list_modules() if timm.list_models(module=module)]


def torchvision_families() -> list[str]:
    """The modules of torchvision's classification models."""
    from torchvision import models

    builders = [models.get_model_builder(name) for name in models.list_models(module=models)]
    return sorted({f"torchvision/{builder.__module__.rpartition('.')[2]}" for builder in builders})


def transformers_families() -> list[str]:
    """The architectures that the installed Transformers builds from a config."""
    return [f"transformers/{model_type}" for model_type in small_models.model_types()]


def smallest_first(family: str) -> list[str]:
    """The models of a family by their number of parameters."""
    import torch

    sizes = {}
    for name in _names(family):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with torch.device("meta"):
                    model = _build(family, name)
            except NotImplementedError:  # it looks at its own weights
                model = _build(family, name)
            sizes[name] = sum(parameter.numel() for parameter in model.parameters())
    return sorted(sizes, key=lambda name: (sizes[name], name))


def try_family(family: str) -> dict[str, Any]:
    """Try the models of a family, the smallest first, until one has a stage to take blocks from."""
    from stimulative.errors import UsageError

    began = time.perf_counter()
    library, _, name = family.partition("/")
    if library == "transformers":
        return {**reloading.try_type(name), "seconds": round(time.perf_counter() - began, 1)}
    first: dict[str, Any] = {}
    passed_over: list[str] = []
    for name in smallest_first(family)[:MOST_TRIED]:
        try:
            found = {"status": "found", **try_model(family, name), "passed_over": passed_over}
            return {**found, "seconds": round(time.perf_counter() - began, 1)}
        except NoClassifier:
            passed_over.append(name)
        except UsageError as error:
            first = first or {"model": name, "stages": [], "subnets": 0, "reason": str(error)}
            passed_over.append(name)
            if "no residual blocks found" not in str(error):
                break
    first = first or {"model": "", "stages": [], "subnets": 0, "reason": "none of its models is a classifier"}
    status = "not residual" if family in NOT_RESIDUAL and "no residual blocks found" in first["reason"] else "failed"
    reason = NOT_RESIDUAL[family] if status == "not residual" else first["reason"]
    return {"status": status, **first, "reason": reason, "seconds": round(time.perf_counter() - began, 1)}


def try_model(family: str, name: str) -> dict[str, Any]:
    """Unravel a model, run two subnets of it, take a step of stimulative training, and take the subnets out."""
    import torch

    import stimulative

    torch.manual_seed(0)
    model = _build(family, name)
    size = _image_size(family, model)
    over_batch = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules())
    images = 2 if over_batch else 1  # what a norm over the batch makes of one image may be a single value
    x, y = torch.randn(images, 3, size, size), torch.arange(images)
    network = stimulative.unravel(model, x)
    depths = [(low + high) // 2 for low, high in network.space.ranges]
    subnets = [network.full, network.space.smallest, stimulative.Subnet.from_depths(depths)]
    network.eval()
    with torch.no_grad():
        torch.manual_seed(1)  # some models draw random numbers
        alone = model(x)
        if not isinstance(alone, torch.Tensor) or alone.shape != (images, CLASSES):
            raise NoClassifier
        torch.manual_seed(1)
        whole, *others = network.run(x, subnets)
    if not torch.equal(whole, alone):
        raise ArithmeticError("the main net is not the model")
    if any(logits.shape != alone.shape or not logits.isfinite().all() for logits in others):
        raise ArithmeticError("a subnet gives something of another shape, or no numbers")
    network.train()
    terms = stimulative.StimulativeTraining(network)(x, y, [network.space.smallest])
    terms.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not gradients or not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise ArithmeticError("a step of stimulative training gives no finite gradients")
    del terms, gradients  # of hundreds of millions of parameters
    model.zero_grad()
    with torch.no_grad():
        for parameter in model.parameters():  # a last norm that starts at zero makes a block of nothing
            parameter.add_(0.02 * torch.randn_like(parameter))
    whole = sum(parameter.numel() for parameter in model.parameters())
    for subnet in subnets[1:]:
        taken = stimulative.extract(network, subnet, "keep")  # compares what it gives with the subnet in place
        if subnet != network.full and sum(parameter.numel() for parameter in taken.parameters()) >= whole:
            raise ArithmeticError("what was taken out is not smaller")
    return {
        "model": name,
        "image_size": size,
        "stages": [[stage.name, stage.blocks] for stage in network.stages],
        "subnets": network.space.count,
    }


def _names(family: str) -> list[str]:
    library, _, module = family.partition("/")
    if library == "timm":
        import timm

        return timm.list_models(module=module)
    from torchvision import models

    every = models.list_models(module=models)
    return [name for name in every if models.get_model_builder(name).__module__.rpartition(".")[2] == module]


def _build(family: str, name: str) -> Any:
    if family.startswith("timm/"):
        import timm

        return timm.create_model(name, num_classes=CLASSES)
    from torchvision import models

    extras = {"aux_logits": False, "init_weights": False} if family.endswith(("googlenet", "inception")) else {}
    return models.get_model(name, weights=None, num_classes=CLASSES, **extras)


def _image_size(family: str, model: Any) -> int:
    if family.startswith("timm/"):
        return model.pretrained_cfg["input_size"][-1]
    return 299 if family.endswith("inception") else 224


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    from stimulative.runs.environment import versions

    return {**versions(), "transformers": version("transformers")}


def _in_processes(families: Sequence[str], seconds: float, jobs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["timm", "torchvision", "transformers.modeling_utils", "stimulative"])
    waiting, running = list(families)[::-1], {}
    while waiting or running:
        while waiting and len(running) < jobs:
            family = waiting.pop()
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_send, args=(sender, family), daemon=True)
            process.start()
            sender.close()
            running[family] = process, receiver, time.perf_counter() + seconds
        for family, (process, receiver, until) in list(running.items()):
            found = _received(receiver, process, until, seconds)
            if found is not None:
                del running[family]
                process.kill()
                process.join()
                yield family, found
        time.sleep(0.05)


def _received(receiver: Connection, process: Any, until: float, seconds: float) -> dict[str, Any] | None:
    """What a process found, or how it ended without finding anything; None while it is at work."""
    nothing: dict[str, Any] = {"status": "failed", "model": "", "stages": [], "subnets": 0, "seconds": seconds}
    if receiver.poll():
        try:
            return receiver.recv()
        except EOFError:
            return {**nothing, "reason": "its process was killed"}
    if time.perf_counter() > until:
        return {**nothing, "reason": f"not done after {seconds:g} seconds"}
    return None if process.is_alive() else {**nothing, "reason": "its process was killed"}


def _send(sender: Connection, family: str) -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    try:
        found = try_family(family)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        found = {
            "status": "failed",
            "model": "",
            "stages": [],
            "subnets": 0,
            "seconds": round(time.perf_counter() - began, 1),
            "reason": f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})",
        }
    sender.send(found)


if __name__ == "__main__":
    main()
