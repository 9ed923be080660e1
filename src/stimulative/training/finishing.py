"""What is done when the last epoch is over: the model as it is deployed, and the one look at the test split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stimulative.residual import ResidualNetwork, Statistics, layers_with_statistics
from stimulative.runs import FamilySummary, MainScore, Summary, device_name, versions
from stimulative.training.measuring import in_precision_of, measure
from stimulative.training.preparing import Prepared
from stimulative.training.temperature import fit_temperatures

if TYPE_CHECKING:
    from stimulative.training.trainer import Trainer


def main_statistics(prepared: Prepared) -> Statistics:
    """The main net's normalisation statistics, estimated on training images."""
    network, images = prepared.network, prepared.recipe.evaluation.calibration_images
    batches = in_precision_of(network, prepared.data.calibration)
    return network.recalibrate(batches, [network.full], images=images)


def main_temperatures(prepared: Prepared, statistics: Statistics | None = None) -> list[float] | None:
    """The main net's temperature on the validation part, for a method whose logits have no scale; None for others."""
    if not prepared.method.calibrates:
        return None
    return fit_temperatures(prepared.network, prepared.data.validation, statistics=statistics)


def finish(trainer: Trainer) -> Summary:
    """Write the trained model and the summary: the one time that the test split is read."""
    peak = trainer.memory.mib()
    prepared, network = trainer.prepared, trainer.network
    trainer.method.deploy()
    if layers_with_statistics(network.model):
        network.load_statistics(main_statistics(prepared))
    temperatures = main_temperatures(prepared)
    score = measure(network, trainer.data.test, temperatures=temperatures)[0]
    main = MainScore(**vars(score), temperature=None if temperatures is None else temperatures[0])
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
    )
    if trainer.chief:
        trainer.run_directory.write_model(network.model)
        trainer.run_directory.write_summary(summary)
    trainer.fabric.barrier()
    return summary


def parameters_of(network: ResidualNetwork) -> int:
    """The number of parameters of the main net."""
    return sum(parameter.numel() for parameter in network.model.parameters())
