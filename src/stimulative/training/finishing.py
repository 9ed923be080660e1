"""What is done when the last epoch is over: the model as it is deployed, and its look at the test split."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stimulative.files import hash_of
from stimulative.residual import ResidualNetwork, Statistics
from stimulative.runs import FamilySummary, Summary, device_name, versions
from stimulative.training.calibration import choose_calibration, estimate_statistics, warn_of_loss
from stimulative.training.measuring import measure_main
from stimulative.training.preparing import Prepared
from stimulative.training.temperature import fit_temperatures
from stimulative.training.tuning import measuring_as

if TYPE_CHECKING:
    from stimulative.training.trainer import Trainer


def main_temperatures(prepared: Prepared, statistics: Statistics | None = None) -> list[float] | None:
    """The main net's temperature on the validation part, for a method whose logits have no scale; None for others."""
    if not prepared.method.calibrates:
        return None
    return fit_temperatures(prepared.network, prepared.data.validation, statistics=statistics)


def finish(trainer: Trainer) -> Summary:
    """Write the trained model and the summary. The test split is first read here, unless every epoch was tested."""
    peak = trainer.memory.mib()
    prepared, network = trainer.prepared, trainer.network
    trainer.method.deploy()
    with measuring_as(trainer.recipe, trainer.fabric.device):
        calibration = choose_calibration(prepared, trainer.calibration)
        if calibration is not None:
            warn_of_loss(calibration)
            network.load_statistics(estimate_statistics(prepared, calibration.view))
        temperatures = main_temperatures(prepared)
        temperature = None if temperatures is None else temperatures[0]
        main = measure_main(network, trainer.data.test, trainer.data, temperature=temperature)
    summary = Summary(
        task=trainer.data.task,
        method=trainer.recipe.method.name,
        model=trainer.recipe.model.name,
        data=trainer.data.name,
        seed=trainer.recipe.seed,
        epochs=trainer.epochs,
        steps=trainer.steps,
        train_seconds=round(trainer.seconds, 3),
        peak_memory_mib=round(peak, 1),
        parameters=parameters_of(network),
        main=main,
        subnets=FamilySummary(count=network.space.count),
        device=device_name(trainer.fabric.device),
        versions=versions(),
        weights=prepared.origin,
        calibration=calibration,
        files_left_out=trainer.data.left_out or None,
    )
    if trainer.chief:
        made_of = {
            "recipe": hash_of(trainer.recipe.to_yaml()),
            "data": json.dumps(dict(trainer.data.fingerprint)),
            **({} if calibration is None else {"calibration": calibration.view}),
        }
        trainer.run_directory.write_model(
            network.model, {f"stimulative.{key}": value for key, value in made_of.items()}
        )
        trainer.run_directory.close_log(trainer.log.file.text)
        trainer.run_directory.write_summary(summary)
    trainer.processes.wait()
    return summary


def parameters_of(network: ResidualNetwork) -> int:
    """The number of parameters of the main net."""
    return sum(parameter.numel() for parameter in network.model.parameters())
