"""``stimulative train``: from a recipe to a run directory."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from stimulative.claiming import is_first_process
from stimulative.cli.data_option import add_data, add_max_steps, data_settings, directory_word, max_steps_settings
from stimulative.cli.from_option import add_from, from_settings
from stimulative.cli.messages import CommandFailed, interrupted_status, say
from stimulative.cli.tables import in_words, measure_of
from stimulative.errors import UsageError
from stimulative.files import user_path

TAKES_SETTINGS = True
_EXAMPLES = """examples:
  stimulative train digits --out runs/digits
  stimulative train cifar100-resnet20 --out runs/c100 --method.balance 2 --schedule.epochs 50
  stimulative train imagenet-resnet50 --data fake --max-steps 10 --data.image_size 64
  stimulative train my-recipe.yaml --out runs/mine --dry-run
  stimulative train my-recipe.yaml --from pretrained --out runs/tuned    start from what timm or torchvision publishes
  stimulative train my-recipe.yaml --from resnet50.safetensors --optimizer.trunk_lr 0.1 --model.freeze_stem true
  stimulative train --from runs/common --method.name stimulative --schedule.epochs 5    a run goes on as another one
  stimulative train --from all-MiniLM-L6-v2 --data sentences:PATH    a saved encoder; settings as init proposes them
  stimulative train runs/mine/recipe.yaml --out runs/mine --resume"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "train",
        help="train a network by a recipe",
        description="Train a network by a recipe: the name of a shipped one or the path of a YAML file. With --from\n"
        "it starts from trained weights; a layer that differs in the number of classes alone starts anew.",
        usage="stimulative train (RECIPE | --from RUN|DIR) [--from RUN|DIR|FILE|pretrained] [--out DIR] [--data NAME] "
        "[--max-steps N] [--resume] [--section.key VALUE ...] [--dry-run]",
        examples=_EXAMPLES,
        settings=True,
    )
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?",
        help="shipped recipe, or path of a YAML file (default: the recipe of --from RUN; for --from DIR what "
        "stimulative init proposes)",
    )
    parser.add_argument("--out", metavar="DIR", help="run directory (default: runs/RECIPE-METHOD-seedN)")
    add_from(parser)
    add_data(parser)
    add_max_steps(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the run that is in the directory")
    parser.add_argument(
        "--dry-run", action="store_true", help="check recipe, data and model, show the plan, train nothing"
    )


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Train."""
    from stimulative.studies import directory_name

    recipe, stem = _recipe(options, rest)
    images = f"-{directory_word(options.data)}" if options.data else ""
    out = Path(options.out or f"runs/{stem}{images}-{directory_name(recipe.method.name)}-seed{recipe.seed}")
    if recipe.model.weights is not None and out.resolve() == user_path(recipe.model.weights).resolve():
        raise UsageError(f"{out} is the run that training starts from; choose another directory with --out")
    if options.dry_run:
        _plan(recipe, out)
        return 0

    from stimulative.runs import RECIPE, RunDirectory
    from stimulative.training import Diverged, ProcessLost, train

    before = RunDirectory(out).finished
    try:
        train(recipe, out, resume=options.resume)
    except (Diverged, ProcessLost) as error:
        raise CommandFailed(f"stopped: {error}") from error
    except KeyboardInterrupt as stopped:
        if RunDirectory(out).started:
            hint = (
                f"go on with: stimulative train {shlex.quote(str(out / RECIPE))} --out {shlex.quote(str(out))} --resume"
            )
        else:
            hint = "nothing has been trained yet"
        say(f"\n{str(stopped) or 'interrupted'}; {hint}", stopped)
        return interrupted_status(stopped)
    if not is_first_process():
        return 0  # of several processes that train together, one speaks
    if before:
        print("the run had finished before; nothing was trained")
    summary = RunDirectory(out).summary
    main, measure = summary.main, measure_of(summary.task)
    print(
        f"{out}: main net {measure.shown(main.quality)} {'next-token' if summary.of_text else measure.short}, loss "
        f"{main.loss:.4f}{in_words(main.perplexity)}, trained in "
        f"{summary.train_seconds:.0f} s. Every subnet's accuracy: stimulative evaluate {out}"
    )
    return 0


def _recipe(options: argparse.Namespace, rest: list[str]) -> tuple[Any, str]:
    """The recipe, and what runs of it are called."""
    from stimulative.config import load_recipe
    from stimulative.models import SavedModel

    more = max_steps_settings(options.max_steps)
    saved = None if options.recipe is not None or options.weights is None else SavedModel.at(options.weights)
    if saved is not None:
        return _proposed(saved.path, options.data, [*more, *rest]), f"{saved.path.resolve().name}-tuned"
    named, stem = (options.recipe, None) if options.recipe is not None else _recipe_of_run(options.weights)
    settings = data_settings(named, options.data, rest) + from_settings(options.weights, rest)
    of_a_run = options.recipe is None or (options.out and Path(named).parent.resolve() == Path(options.out).resolve())
    return load_recipe(named, [*settings, *more, *rest], of_a_run=bool(of_a_run)), stem or Path(named).stem


def _proposed(saved: Path, data: str | None, settings: list[str]) -> Any:
    """The recipe that ``stimulative init`` would write for a saved model."""
    from stimulative.proposing import propose

    if data is None:
        raise UsageError(
            f"--from {saved} without RECIPE: that is a saved model; say what to train it on, too: "
            "--data sentences:PATH for a sentence encoder"
        )
    from_settings(str(saved), settings)
    return propose(None, data, weights=str(saved), settings=settings).recipe


def _recipe_of_run(start: str | None) -> tuple[str, str]:
    """The recipe of the run that ``--from`` names, and what runs that start from it are called."""
    if start is None:
        raise UsageError("give a RECIPE, or a run to start from: --from RUN; see stimulative train --help")
    from stimulative.runs import RECIPE

    stored = user_path(start) / RECIPE
    if not stored.is_file():
        raise UsageError(
            f"--from {start} without RECIPE: that takes the recipe of a run, or proposes one for a directory in which "
            f"Transformers saved a model, and {start} is neither; name a recipe, too"
        )
    return str(stored), f"{stored.resolve().parent.name}-tuned"


def _plan(recipe: Any, out: Path) -> None:
    from stimulative.data import SentenceData, TextData
    from stimulative.training import prepare

    prepared = prepare(recipe, weights=True)
    print(recipe.to_yaml(), end="")
    network, data = prepared.network, prepared.data
    stages = ", ".join(f"{stage.name} ({stage.blocks})" for stage in network.stages)
    print(f"# network: {stages}; {network.space.count:,} subnets, {network.space.smallest} to {network.full}")
    if isinstance(data, SentenceData):
        what, classes = "texts", f"up to {data.length} tokens"
    elif isinstance(data, TextData):
        what, classes = "sequences", f"{data.length} tokens, {data.classes} different ones"
    else:
        what, classes = "images", f"{data.classes} classes"
    print(f"# data: {data.train.images:,} training, {data.validation.images:,} validation {what} of {classes}")
    if prepared.loaded:
        print(f"# weights: {prepared.loaded}")
    stop = recipe.schedule.max_steps
    until = "" if stop is None else f", {stop} steps at most,"
    print(f"# {recipe.schedule.epochs} epochs of {len(data.train)} batches{until} would be trained into {out}")
