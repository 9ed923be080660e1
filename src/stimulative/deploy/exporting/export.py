"""Export: a subnet of a finished run as a file for others to run.

ONNX for any runtime, a program of ``torch.export`` for PyTorch without the model's code, or plain weights. Whatever is
written is read back and compared with the subnet in place, on data of the test split, before it gets its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from stimulative.analysis import CostModel, Steps
from stimulative.data import TextData
from stimulative.deploy.carving import Carving
from stimulative.deploy.deployable import Finished, open_finished
from stimulative.deploy.exporting import onnx, program
from stimulative.deploy.exporting import safetensors_file as weights
from stimulative.deploy.exporting.checking import Case, cases_of, compare
from stimulative.deploy.exporting.deployed import Deployed, DeployedImages, DeployedText
from stimulative.deploy.exporting.describing import described_input, described_output
from stimulative.deploy.exporting.exported import Check, Description, Exported, Measured, Net
from stimulative.deploy.exporting.rebuilding import rebuilding_of
from stimulative.deploy.exporting.request import SUFFIXES, ExportRequest, Format
from stimulative.deploy.extraction import carve_checked
from stimulative.deploy.writing import check_new
from stimulative.files import replacing
from stimulative.residual import Statistics, Subnet, SubnetLike
from stimulative.runs import MODEL, RunDirectory
from stimulative.training import as_in, fit_temperatures

FOLDER = "export"


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
    request = ExportRequest(format, normalise, temperature, probabilities)
    request.check(out)
    finished = open_finished(run)
    chosen = finished.network.resolve(subnet)
    request.check_fit(finished)
    path = Path(out) if out is not None else finished.directory / FOLDER / f"{chosen}{SUFFIXES[format]}"
    check_new(path, force=force)
    if format == "safetensors":
        check_new(_beside(path), force=force)
    return _Export(finished, chosen, request, path).written(progress).to_mapping()


def _beside(path: Path) -> Path:
    """The JSON beside a file of weights."""
    return path.with_name(f"{path.name}.json")


@dataclass(frozen=True)
class _Export:
    """A subnet on its way into a file."""

    finished: Finished
    subnet: Subnet
    request: ExportRequest
    path: Path

    def written(self, progress: Callable[[int, int], Any] | None) -> Exported:
        """Write it, read it back and compare."""
        finished, subnet, request, run = self.finished, self.subnet, self.request, self.finished.run
        steps = Steps(progress, 3 + (0 if subnet in finished.family else len(run.data.test)))
        statistics = finished.statistics([subnet])
        carving = carve_checked(finished.network, subnet, statistics)
        if request.format == "onnx":
            onnx.check_size(carving.model)
        steps.step()
        measured = self._measured(statistics, steps)
        module = self._deployed(carving, measured.temperature)
        traced = None if request.format == "safetensors" else program.trace(module, self._example(module))
        free = module.freedoms[0] if traced is None else traced.free
        description = Description(
            **vars(measured),
            **vars(finished.about()),
            input=described_input(run, module, free),
            output=described_output(run, module, free, measured.temperature),
            fixed=None if traced is None else traced.fixed,
        )
        cases = cases_of(run, module, subnet, statistics, free=free)
        steps.step()
        if traced is None:
            exported = self._write_weights(module, carving, description, cases)
        else:
            exported = self._write_graph(module, traced, description, cases)
        steps.step()
        return exported

    def _measured(self, statistics: Statistics, steps: Steps) -> Measured:
        """How good the subnet is; with a temperature, fitted now if it has none and is asked for."""
        finished, network, data = self.finished, self.finished.network, self.finished.run.data
        (member,) = finished.members([self.subnet], statistics, after_batch=steps.step)
        temperature = member.temperature
        if temperature is None and self.request.temperature:
            (temperature,) = fit_temperatures(network, data.validation, [self.subnet], statistics=statistics)
        main = CostModel(network, as_in(network, data.example(1, evaluation=True))).main
        return Measured(
            subnet=str(self.subnet),
            test=member.score,
            parameters=member.cost.parameters,
            flops=member.cost.flops,
            main_net=Net(str(network.full), finished.summary.main, main.parameters, main.flops),
            temperature=temperature,
            calibration_images=statistics.images,
        )

    def _deployed(self, carving: Carving, fitted: float | None) -> Deployed:
        data, request = self.finished.run.data, self.request
        temperature = fitted if request.temperature else None
        if isinstance(data, TextData):
            module: Deployed = DeployedText(
                carving.model, aim=data.aim, temperature=temperature, probabilities=request.probabilities
            )
        else:
            module = DeployedImages(
                carving.model,
                mean=data.mean if request.normalise else None,
                std=data.std if request.normalise else None,
                aim=data.aim,
                temperature=temperature,
                probabilities=request.probabilities,
            )
        return module.eval()

    def _example(self, module: Deployed) -> tuple[torch.Tensor, ...]:
        """A batch of two to trace with."""
        example = self.finished.run.data.example(2, evaluation=True)
        if isinstance(example, dict):
            return tuple(example[name] for name in module.inputs)
        return (as_in(self.finished.network, example),)

    def _write_graph(
        self, module: Deployed, traced: program.Traced, description: Description, cases: Sequence[Case]
    ) -> Exported:
        """Write a traced module, read it back and compare, and let it have its name."""
        with replacing(self.path) as temporary:
            if self.request.format == "onnx":
                description = replace(description, opset=onnx.OPSET)
                onnx.write_onnx(traced, module, temporary, description.to_mapping())
                runner, reader = onnx.onnx_runner(temporary), f"ONNX Runtime {version('onnxruntime')}"
            else:
                program.write_program(traced, temporary, description.to_mapping())
                runner, reader = program.program_runner(temporary), f"PyTorch {torch.__version__}, as a program"
            agreement = compare(runner, cases, module.aim)
        return self._exported(description, Check(reader, agreement))

    def _write_weights(
        self, module: Deployed, carving: Carving, description: Description, cases: Sequence[Case]
    ) -> Exported:
        """Write weights and their JSON, read them back into a module that is built again, and compare."""
        inputs = cases[min(1, len(cases) - 1)].inputs
        rebuilding = rebuilding_of(self.finished.run, carving, module, self.subnet, inputs)
        description = replace(description, rebuild=rebuilding.ways)
        about, beside = description.to_mapping(), _beside(self.path)
        with replacing(self.path) as temporary:
            weights.write_weights(module.model, temporary, about)
            agreement = compare(weights.weights_runner(module, rebuilding, temporary), cases, module.aim)
            with replacing(beside) as described:
                described.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        built = "the same module" if rebuilding.built is None else "a module built again"
        return self._exported(description, Check(f"PyTorch {torch.__version__}, in {built}", agreement), beside)

    def _exported(self, description: Description, check: Check, beside: Path | None = None) -> Exported:
        return Exported(
            **vars(description),
            file=str(self.path),
            bytes=self.path.stat().st_size,
            main_net_bytes=RunDirectory(self.finished.directory).file(MODEL).stat().st_size,
            json=None if beside is None else str(beside),
            check=check,
        )
