"""Which network a command is asked about: a run directory, or any file of weights with its model and data.

A command adds the arguments with ``add_source``, sets ``TAKES_SETTINGS = True``, and gets run directories from
``runs_from``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from stimulative.cli.parser import without_settings
from stimulative.cli.progress import progress_bar
from stimulative.errors import UsageError
from stimulative.files import user_path

SOURCE_USAGE = "(RUN | --model NAME --weights FILE --data NAME [--section.key VALUE ...])"
_IMAGES = """In place of RUN, any state dict (.pth, .pt, .th, .safetensors, also inside of a checkpoint), read
without running code from it. FILE#KEY is one of several in a checkpoint: best.pth#model_ema. Further
settings of model and data: --data.path, --data.image_size, --model.arguments, ... as in
stimulative train --help. Images are prepared as for training here:
cifar10 and cifar100 normalised by the mean and deviation of their training images; folder:PATH
resized to 256/224 of --data.image_size (224), cropped to the centre, and normalised by ImageNet's
mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225). --data.mean, --data.std,
--data.crop_ratio and --data.interpolation prepare them as other weights want them. Statistics of
subnets come from training images augmented by --data.crop_padding (4), --data.flip (true) and the
like: say what the weights were trained with. Texts (pydoc, text:PATH) are cut into sequences of
--data.length (128) tokens by --data.tokenizer (bytes), which has to be that of the weights. A
directory in which Transformers saved a model can be FILE, and says --model, --model.arguments and
--data.tokenizer; on sentences:PATH subnets are compared with the whole encoder."""


def add_source(
    parser: argparse.ArgumentParser,
    *,
    many: bool = False,
    out: bool = False,
    name: str = "RUN",
    help: str = "run directory",
) -> None:
    """Add RUN, and ``--model``, ``--weights`` and ``--data`` in its place.

    Args:
        parser: The parser of a command that has ``TAKES_SETTINGS = True``.
        many: Whether the command takes several runs.
        out: Whether to add ``--out``, the run directory that is made of the weights; for commands that have no
            ``--out`` of their own.
        name: What the help calls RUN.
        help: What it says of it.
    """
    parser.add_argument("runs", metavar=name, nargs="*" if many else "?", help=help)
    group = parser.add_argument_group("any weights", _IMAGES)
    group.add_argument(
        "--model",
        metavar="NAME",
        help="cifar/NAME, timm/NAME, torchvision/NAME, transformers/MODEL_TYPE or package.module:factory",
    )
    group.add_argument("--weights", metavar="FILE[#KEY]", help="the file of weights, or what it has under one key")
    group.add_argument(
        "--data",
        metavar="NAME",
        help="digits, cifar10, cifar100, folder:PATH, wds:PATTERN, pydoc, text:PATH, sentences:PATH or "
        "package.module:name",
    )
    if out:
        group.add_argument(
            "--out",
            metavar="DIR",
            help="run directory to make of the weights (default: runs/FILE's name), or to copy RUN to and measure it "
            "there, where RUN cannot be written to",
        )


def runs_from(options: argparse.Namespace, rest: Sequence[str], *, into: Path | None = None) -> list[Path]:
    """The run directories that a command is asked about; weights are made into one first.

    Check the command's own options before: making a run directory of weights takes as long as measuring the main net.

    Args:
        options: What a parser with ``add_source`` parsed.
        rest: The words that it did not know: settings.
        into: The directory in which the weights' run directory is made, named after their file. Without it the
            directory is ``--out``, or one in ``runs``.

    Returns:
        One run directory, or several if the command takes many.

    Raises:
        UsageError: If neither or both are given, or one of them by half, or the weights cannot be adopted.
    """
    given = options.runs if isinstance(options.runs, list) else [options.runs] if options.runs is not None else []
    about = {f"--{name}": getattr(options, name) for name in ("model", "weights", "data")}
    named = [name for name, value in about.items() if value is not None]
    command = f"stimulative {options.command}"
    stray, _ = without_settings(rest)
    if stray:
        raise UsageError(f"unknown option {stray[0]!r}; see {command} --help")
    if given and named:
        raise UsageError(
            f"got both RUN ({given[0]}) and {', '.join(named)}; give one or the other. To compare weights with runs, "
            "make a run directory of them first: stimulative evaluate --model NAME --weights FILE --data NAME"
        )
    if given:
        if rest:
            raise UsageError(f"{rest[0].partition('=')[0]} goes with --weights only; a run is measured as it was made")
        runs = [_checked(Path(run)) for run in given]
        out = getattr(options, "out", None) if into is None else None
        return runs if out is None else [_copied(runs[0], Path(out))]
    if not named:
        raise UsageError(f"give a run directory, or --model, --weights and --data; see {command} --help")
    saved = _settings_of_saved(options)
    missing = [name for name in about if getattr(options, name.removeprefix("--")) is None]
    if missing:
        raise UsageError(
            f"{', '.join(named)} without {', '.join(missing)}: weights are measured with --model NAME (their "
            "architecture), --weights FILE and --data NAME (the images)"
        )
    from stimulative.weights import WeightsPlace

    named_after = Path(options.weights).resolve().name if saved else WeightsPlace.of(options.weights).name
    out = Path(getattr(options, "out", None) or f"runs/{named_after}") if into is None else into / named_after
    return [_adopt(options, [*saved, *rest], out)]


def _settings_of_saved(options: argparse.Namespace) -> list[str]:
    """What a directory in which Transformers saved a model says of it, as settings; the model's name is set."""
    if options.weights is None or options.data is None:
        return []
    from stimulative.data import DataSettings
    from stimulative.models import SavedModel

    saved, data = SavedModel.at(options.weights), DataSettings(name=options.data)
    if saved is None:
        return []
    said = saved.settings(data.task or "images")
    if options.model not in (None, said["name"]):
        return []
    options.model = said["name"]
    words = ["--model.arguments", json.dumps(said["arguments"])]
    tokenizer = saved.tokenizer if data.takes_tokens else None
    return words if tokenizer is None else [*words, "--data.tokenizer", json.dumps(tokenizer)]


def _checked(run: Path) -> Path:
    from stimulative.runs import RunDirectory

    if user_path(run).is_file():
        raise UsageError(
            f"{run} is a file, not a run directory; weights are given as --model NAME --weights {run} --data NAME"
        )
    _ = RunDirectory.open(run).recipe
    return run


def _copied(run: Path, out: Path) -> Path:
    """A copy of a run that can be written to."""
    from stimulative.runs import RunDirectory

    return RunDirectory.open(run).copied(out).path


def _adopt(options: argparse.Namespace, rest: Sequence[str], out: Path) -> Path:
    from stimulative.analysis import adopt, recipe_for

    recipe = recipe_for(options.model, options.data, rest)
    with progress_bar("measuring the main net") as show:
        return adopt(recipe, options.weights, out, progress=show)
