"""Export: a subnet of a finished run as a file for others to run.

ONNX for any runtime, a program of ``torch.export`` for PyTorch without the model's code, or plain weights. Whatever is
written is read back and compared with the subnet in place, on data of the test split, before it gets its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from stimulative.analysis import CostModel, Steps
from stimulative.data import ImageData, TextData
from stimulative.deploy.carving import Carving
from stimulative.deploy.deployable import Finished, open_finished
from stimulative.deploy.exporting import onnx, program
from stimulative.deploy.exporting import safetensors_file as weights
from stimulative.deploy.exporting.checking import Case, cases_of, compare
from stimulative.deploy.exporting.deployed import Deployed, DeployedImages, DeployedText
from stimulative.deploy.exporting.describing import described_input, described_output
from stimulative.deploy.exporting.rebuilding import Rebuilding, rebuilding_of
from stimulative.deploy.extraction import carve_checked
from stimulative.deploy.writing import check_new, writing
from stimulative.errors import UsageError
from stimulative.residual import Statistics, Subnet, SubnetLike
from stimulative.runs import MODEL
from stimulative.training import as_in, fit_temperatures

Format = Literal["onnx", "torch", "safetensors"]

FOLDER = "export"
_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}


def export(
    run: str | Path,
    subnet: SubnetLike,
    *,
    format: Format = "onnx",
    out: str | Path | None = None,
    normalise: bool = False,
    temperature: bool = False,
    probabilities: bool = False,
    force: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """Write a subnet of a finished run as a file that needs nothing of this library.

    Its normalisation statistics are recalibrated. What was written is read back and compared with the subnet in place
    on data of the test split, in batches of several sizes; if outputs differ beyond rounding, no file is left.

    Args:
        run: The run directory.
        subnet: One of its subnets.
        format: ``"onnx"``; ``"torch"``, a program of ``torch.export``; or ``"safetensors"``, the weights, with a JSON
            beside them (``FILE.json``) that says how the module is built again.
        out: The file; by default ``export/SUBNET.onnx``, ``.pt2`` or ``.safetensors`` in the run directory.
        normalise: Whether the exported graph takes pixels from 0 to 1, and normalises them itself.
        temperature: Whether it divides logits by the temperature that fits the validation part.
        probabilities: Whether it gives the softmax of the logits.
        force: Whether a file that is there is replaced.
        progress: Called with the steps done and the steps in all.

    Returns:
        What the file says of itself, and of it ``file``, ``bytes``, ``main_net_bytes`` (of the main net's weights),
        ``json`` (beside weights), ``fixed`` (why its batch is fixed; None if it is not) and ``check``.

    Raises:
        UsageError: If something cannot be used, a package is missing, or the file cannot be written.
        ExportFailed: If what was written computes something else than the subnet.
    """
    _check_words(format, normalise=normalise, temperature=temperature, probabilities=probabilities)
    _check_suffix(format, out)
    finished = open_finished(run)
    chosen = finished.network.resolve(subnet)
    _check_fit(finished, normalise=normalise, temperature=temperature, probabilities=probabilities)
    path = Path(out) if out is not None else finished.directory / FOLDER / f"{chosen}{_SUFFIXES[format]}"
    check_new(path, force=force)
    beside = path.with_name(f"{path.name}.json")
    if format == "safetensors":
        check_new(beside, force=force)

    steps = Steps(progress, 3 + (0 if chosen in finished.family else len(finished.run.data.test)))
    statistics = finished.statistics([chosen])
    carving = carve_checked(finished.network, chosen, statistics)
    if format == "onnx":
        onnx.check_size(carving.model)
    steps.step()
    about, fitted = _described(finished, chosen, statistics, steps, fit=temperature)
    module = _deployed(finished, carving, normalise, fitted if temperature else None, probabilities)
    traced = None if format == "safetensors" else program.trace(module, _example(finished, module))
    free = module.freedoms[0] if traced is None else traced.free
    about["input"] = described_input(finished.run, module, free)
    about["output"] = described_output(finished.run, module, free, fitted)
    about["fixed"] = None if traced is None else traced.fixed
    cases = cases_of(finished.run, module, chosen, statistics, free=free)
    steps.step()
    if traced is not None:
        written = _write_graph(format, traced, module, path, about, cases)
    else:
        rebuilding = rebuilding_of(finished.run, carving, module, chosen, cases[min(1, len(cases) - 1)].inputs)
        written = _write_weights(module, rebuilding, path, beside, about, cases)
    steps.step()
    main_bytes = (finished.directory / MODEL).stat().st_size
    return about | {"file": str(path), "bytes": path.stat().st_size, "main_net_bytes": main_bytes} | written


def _check_words(format: str, *, normalise: bool, temperature: bool, probabilities: bool) -> None:
    """Refuse words that have no meaning together, and missing packages."""
    if format not in get_args(Format):
        raise UsageError(f"format is one of {', '.join(get_args(Format))}, got {format!r}")
    asked = {"normalise": normalise, "temperature": temperature, "probabilities": probabilities}
    graph = [f"--{word}" for word, wanted in asked.items() if wanted]
    if format == "safetensors" and graph:
        raise UsageError(
            f"{' and '.join(graph)} cannot be part of plain weights; mean, deviation and temperature stand in the JSON "
            "beside them. Leave it out, or choose --format onnx or torch"
        )
    if format == "onnx":
        onnx.check_installed()


def _check_suffix(format: Format, out: str | Path | None) -> None:
    """Refuse a file that is named as one of another format."""
    named = {suffix: other for other, suffix in _SUFFIXES.items()}.get(Path(out or "").suffix, format)
    if named != format:
        raise UsageError(f"{out} is named as a file of --format {named}, got --format {format}; change one of them")


def _check_fit(finished: Finished, *, normalise: bool, temperature: bool, probabilities: bool) -> None:
    """Refuse what this run has no numbers for."""
    data = finished.run.data
    if normalise and not (isinstance(data, ImageData) and data.mean):
        raise UsageError(
            f"--normalise is for images whose mean and deviation are known; this run has {data.described()}. "
            "Leave it out"
        )
    if probabilities and finished.calibrates and not temperature:
        raise UsageError(
            f"--probabilities: method {finished.run.recipe.method.name!r} leaves the scale of logits open, so that "
            "their softmax says nothing of certainty; add --temperature"
        )


def _described(
    finished: Finished, subnet: Subnet, statistics: Statistics, steps: Steps, *, fit: bool
) -> tuple[dict[str, Any], float | None]:
    """What a file says of a subnet, and its temperature, fitted now if it has none and is asked for."""
    network, data = finished.network, finished.run.data
    (member,) = finished.members([subnet], statistics, after_batch=steps.step)
    temperature = member.temperature
    if temperature is None and fit:
        (temperature,) = fit_temperatures(network, data.validation, [subnet], statistics=statistics)
    main = CostModel(network, as_in(network, data.example(1, evaluation=True))).main
    about = {
        "subnet": str(subnet),
        "test": member.score.to_mapping(),
        "parameters": member.cost.parameters,
        "flops": member.cost.flops,
        "main_net": {
            "subnet": str(network.full),
            "test": finished.summary.main.to_mapping(),
            "parameters": main.parameters,
            "flops": main.flops,
        },
        "temperature": temperature,
        "calibration_images": statistics.images,
        **finished.about(),
    }
    return about, temperature


def _deployed(
    finished: Finished, carving: Carving, normalise: bool, temperature: float | None, probabilities: bool
) -> Deployed:
    data = finished.run.data
    if isinstance(data, TextData):
        module: Deployed = DeployedText(carving.model, temperature=temperature, probabilities=probabilities)
    else:
        module = DeployedImages(
            carving.model,
            mean=data.mean if normalise else None,
            std=data.std if normalise else None,
            temperature=temperature,
            probabilities=probabilities,
        )
    return module.eval()


def _example(finished: Finished, module: Deployed) -> tuple[torch.Tensor, ...]:
    """A batch of two to trace with."""
    example = finished.run.data.example(2, evaluation=True)
    if isinstance(example, dict):
        return tuple(example[name] for name in module.inputs)
    return (as_in(finished.network, example),)


def _write_graph(
    format: Format, traced: program.Traced, module: Deployed, path: Path, about: dict[str, Any], cases: Sequence[Case]
) -> dict[str, Any]:
    """Write a traced module, read it back and compare, and let it have its name."""
    with writing(path) as temporary:
        if format == "onnx":
            about["opset"] = onnx.OPSET
            onnx.write_onnx(traced, module, temporary, about)
            runner, reader = onnx.onnx_runner(temporary), f"ONNX Runtime {version('onnxruntime')}"
        else:
            program.write_program(traced, temporary, about)
            runner, reader = program.program_runner(temporary), f"PyTorch {torch.__version__}, as a program"
        agreement = compare(runner, cases)
    return {"check": {"in": reader, **agreement.to_mapping()}}


def _write_weights(
    module: Deployed, rebuilding: Rebuilding, path: Path, beside: Path, about: dict[str, Any], cases: Sequence[Case]
) -> dict[str, Any]:
    """Write weights and their JSON, read them back into a module that is built again, and compare."""
    about["rebuild"] = rebuilding.to_mapping()
    with writing(path) as temporary:
        weights.write_weights(module.model, temporary, about)
        agreement = compare(weights.weights_runner(module, rebuilding, temporary), cases)
        with writing(beside) as description:
            description.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    built = "the same module" if rebuilding.built is None else "a module built again"
    return {"json": str(beside), "check": {"in": f"PyTorch {torch.__version__}, in {built}", **agreement.to_mapping()}}
