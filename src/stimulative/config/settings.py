"""What a recipe says about how to train: one frozen dataclass per section, with the values that cannot be.

The sections about the model and the data live beside the code that reads them. Here `problems` names
impossible values, each sentence starting with the bare name of its setting; types are checked before, by
`stimulative.config.annotations`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stimulative.errors import UsageError
from stimulative.extension import imported, is_own

CalibrationSetting = Literal["auto", "training", "evaluation"]
"""Which view of the training images statistics come from; auto takes what the main net does better by."""

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
"""What torch.compile calls its modes."""

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow", "comet", "neptune")


@dataclass(frozen=True)
class MethodSettings:
    """How the network is trained.

    In YAML the settings stand flat beside the name: ``method: {name: stimulative, balance: 1.0}``.

    Attributes:
        name: Training method, a name of `stimulative.methods.METHODS`; or package.module:Class for a subclass of
            stimulative.methods.Method of one's own, whose settings are what its constructor takes by name.
        settings: Every keyword of that method's class that a recipe may set, defaults filled in.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerSettings:
    """How weights follow gradients.

    Attributes:
        name: Optimiser: sgd (with momentum) or adamw.
        lr: Peak learning rate. 0.1 suits sgd; adamw wants about 0.001.
        momentum: Momentum of sgd; adamw does not read it.
        nesterov: Nesterov's form of momentum for sgd; adamw does not read it.
        betas: Decay of adamw's two running averages; sgd does not read it.
        weight_decay: Strength of weight decay (L2 for sgd, decoupled for adamw).
        decay_norms_and_biases: Apply weight decay to normalisation layers and biases too.
        clip_norm: Scale the gradient down to this norm when it is longer; null leaves it alone.
        fused: Take the optimiser's step in one kernel, which rounds otherwise; null does on a GPU, where it is faster
            and spares 16-mixed a wait in each step.
        trunk_lr: Learning rate of what was loaded from model.weights, as a share of lr, which is that of what is new: a
            head for other classes, auxiliary classifiers. 1 trains all alike.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 5e-4
    decay_norms_and_biases: bool = False
    clip_norm: float | None = None
    fused: bool | None = None
    trunk_lr: float = 1.0

    def problems(self) -> list[str]:
        """What cannot be, a sentence each, starting with the name of the setting; empty when all is well."""
        found = []
        if self.lr <= 0:
            found.append(f"lr: must be above 0, got {self.lr}")
        if not 0 <= self.momentum < 1:
            found.append(f"momentum: must be at least 0 and below 1, got {self.momentum}")
        if self.name == "sgd" and self.nesterov and self.momentum == 0:
            found.append("nesterov: needs a momentum above 0, got momentum 0; set nesterov to false")
        if not all(0 <= beta < 1 for beta in self.betas):
            found.append(f"betas: both must be at least 0 and below 1, got {list(self.betas)}")
        if self.weight_decay < 0:
            found.append(f"weight_decay: must be at least 0, got {self.weight_decay}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            found.append(f"clip_norm: must be above 0, or null to leave gradients alone, got {self.clip_norm}")
        if not 0 < self.trunk_lr <= 1:
            found.append(f"trunk_lr: is a share of lr, above 0 and up to 1, got {self.trunk_lr}")
        return found


@dataclass(frozen=True)
class ScheduleSettings:
    """How long, and how the learning rate moves: a linear rise, then a cosine, changed at every step.

    Attributes:
        epochs: Passes over the training images.
        warmup_epochs: Epochs, or a part of one, over which the learning rate rises linearly to its peak.
        final_lr: Learning rate at the end, as a share of the peak; the cosine falls to it.
        max_steps: Stop after so many optimiser steps in all, then measure and save as ever; to try a recipe. The
            learning rate and the balance move as in the whole run. Null is all steps of all epochs.
    """

    epochs: int = 20
    warmup_epochs: float = 1.0
    final_lr: float = 0.0
    max_steps: int | None = None

    def problems(self) -> list[str]:
        """What cannot be, a sentence each, starting with the name of the setting; empty when all is well."""
        found = []
        if self.epochs < 1:
            found.append(f"epochs: must be at least 1, got {self.epochs}")
        elif not 0 <= self.warmup_epochs <= self.epochs:
            found.append(
                f"warmup_epochs: must be at least 0 and at most the {self.epochs} epochs of the run, "
                f"got {self.warmup_epochs}"
            )
        if not 0 <= self.final_lr <= 1:
            found.append(f"final_lr: is a share of lr, from 0 to 1, got {self.final_lr}")
        if self.max_steps is not None and self.max_steps < 1:
            found.append(f"max_steps: must be at least 1, or null for the whole run, got {self.max_steps}")
        return found


@dataclass(frozen=True)
class TrainingSettings:
    """How the loop runs, and on what.

    Attributes:
        label_smoothing: Share of the target probability that is spread evenly over all classes.
        precision: Number format, in the words of Lightning Fabric; mixed keeps the weights in 32 bits.
        accumulate: Batches that make up one optimiser step.
        device: Kind of device; auto takes the fastest one present.
        devices: Devices of each node, a process for each: auto takes as many as torchrun or srun has started there, and
            1 without them. A number is compared with what was started; without a launcher so many processes are
            started on this machine.
        num_nodes: Nodes, on each of which torchrun or srun starts processes; auto takes as many as there are.
        strategy: How the gradients of several processes come together: ddp (DistributedDataParallel) sends them while
            the backward pass goes on, flat sends all of them at once when it is over, which every method allows. auto
            is ddp, and flat for methods with several backward passes a step (method.schedule lean).
        sync_batchnorm: Let batch norms normalise by the batches of all processes instead of each by its own, on GPUs;
            for few images on each of them (below about 16). It costs an exchange for each layer and pass.
        threads: CPU threads PyTorch computes with; null leaves PyTorch's choice.
        channels_last: Store images and weights channels-last, faster for convolutions on most devices.
        compile: Compile each block of the model with torch.compile; slow to start, faster after.
        compile_mode: How, in the words of torch.compile: reduce-overhead records CUDA graphs, max-autotune tries more
            kernels at the start. Only with compile.
        compile_steps: For how many choices of subnets, those that come up most, main net and subnets are compiled as
            one piece, in which the compiler can do more; each takes up to a minute or more to compile. Only with
            compile, for stimulative training with schedule joint on one device.
        capture: Record each block as CUDA graphs, once as it runs in the main net and once for each subnet of a step,
            and replay them: for nets whose kernels take less time than launching them. Each recording takes memory. On
            one GPU, without compile.
        tf32: Multiply float32 with 10 bits behind the point instead of 23 (TF32), for which NVIDIA's GPUs from 2020 on
            have faster units; sums keep all bits. Other devices do not read it, nor does what is computed in 16 bits.
        cudnn_benchmark: Let cuDNN try its algorithms for each new size of a convolution, and keep the fastest. It may
            take another one when a run is repeated, and round otherwise. Other devices than GPUs do not read it.
        loggers: Where metrics go beside metrics.csv: tensorboard, another of Lightning's loggers (wandb,
            mlflow, comet, neptune) or the class of one as package.module:Class.
        log_every: Batches between two looks at the losses and the progress; several processes then agree on whether to
            stop, too.
    """

    label_smoothing: float = 0.0
    precision: Literal["64-true", "32-true", "bf16-mixed", "16-mixed", "bf16-true"] = "32-true"
    accumulate: int = 1
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int | Literal["auto"] = "auto"
    num_nodes: int | Literal["auto"] = "auto"
    strategy: Literal["auto", "ddp", "flat"] = "auto"
    sync_batchnorm: bool = False
    threads: int | None = None
    channels_last: bool = False
    compile: bool = False
    compile_mode: CompileMode = "default"
    compile_steps: int = 0
    capture: bool = False
    tf32: bool = True
    cudnn_benchmark: bool = True
    loggers: tuple[str, ...] = ("tensorboard",)
    log_every: int = 50

    def problems(self) -> list[str]:
        """What cannot be, a sentence each, starting with the name of the setting; empty when all is well."""
        found = []
        if not 0 <= self.label_smoothing < 1:
            found.append(f"label_smoothing: must be at least 0 and below 1, got {self.label_smoothing}")
        for name in ("accumulate", "devices", "num_nodes", "log_every"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                found.append(f"{name}: must be at least 1, got {value}")
        if self.compile_mode != "default" and not self.compile:
            found.append(
                f"compile_mode: {self.compile_mode!r} says how to compile, but compile is false; set that to true, or "
                "leave this out"
            )
        if self.compile_steps < 0 or (self.compile_steps and not self.compile):
            found.append(
                f"compile_steps: the number of choices of subnets to compile as a whole, from 0 on, and 0 without "
                f"compile; got {self.compile_steps}{'' if self.compile else ' with compile false, set that to true'}"
            )
        if self.capture and self.compile:
            found.append("capture: it records the kernels that PyTorch launches, and compile makes others; choose one")
        if self.threads is not None and self.threads < 1:
            found.append(f"threads: must be at least 1, or null for PyTorch's choice, got {self.threads}")
        found += [f"loggers: {problem}" for problem in map(_problem_with_logger, self.loggers) if problem]
        if len(set(self.loggers)) < len(self.loggers):
            found.append(f"loggers: each may stand there once, got {list(self.loggers)}")
        return found


def _problem_with_logger(name: str) -> str | None:
    """Why a logger cannot be used, a sentence; None if nothing is known against it."""
    if name in LOGGERS:
        return None
    if not is_own(name):
        return f"unknown logger {name!r}, known: {', '.join(LOGGERS)}, or a class as package.module:Class"
    try:
        imported(name, "logger", "Class", "a class of loggers as Lightning has them")
    except UsageError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured once training is over, and what on the way there.

    Attributes:
        subnets: Which subnets to evaluate: all; a number of them, drawn with the seed, the main net and the smallest
            among them where it is 2 or more; or auto, which is all where they are at most 1,000, and else 1,000 drawn.
        space: Which subnets there are, by the blocks that a stage keeps at a depth: the first ones (ordered), the last
            ones behind a fixed first one (suffix), evenly spread ones (every_other), or any (unordered); or the most
            important ones by an order that has all blocks of each stage, the most important first, such as
            ranked:[0.2.1]-2 (stimulative rank measures one).
        calibration: How the training images are prepared that normalisation statistics are estimated on: as for
            training, augmented; as for evaluation; or auto, which measures the main net by both on the validation part
            and takes the better (a study takes for all its runs what its reference has).
        calibration_images: Training images on which normalisation statistics are re-estimated before evaluation.
        autocast: Validate, recalibrate and evaluate in the 16 bits of a mixed training.precision, too, which is faster.
            By default in the 32 bits that the weights are saved with, so that scores are those of the model that comes
            out, and differences of subnets of a tenth of a point are not those of rounding. GPUs multiply as
            training.tf32 says there, too: by default with 10 bits behind the point.
        test_every_epoch: Measure the main net on the test split after each epoch, too, as validation measures it, and
            write that to metrics.csv, for curves of test accuracy. It chooses nothing: that is up to the validation
            part. By default the test split is read once, at the end.
    """

    subnets: int | Literal["auto", "all"] = "auto"
    space: str = "ordered"
    calibration: CalibrationSetting = "auto"
    calibration_images: int = 2000
    autocast: bool = False
    test_every_epoch: bool = False

    def problems(self) -> list[str]:
        """What cannot be, a sentence each, starting with the name of the setting; empty when all is well."""
        found = []
        from stimulative.residual import check_kept

        try:
            check_kept(self.space)
        except UsageError as error:
            found.append(f"space: {error}")
        if isinstance(self.subnets, int) and self.subnets < 1:
            found.append(f"subnets: must be at least 1, or auto, or all, got {self.subnets}")
        if self.calibration_images < 1:
            found.append(f"calibration_images: must be at least 1, got {self.calibration_images}")
        return found
