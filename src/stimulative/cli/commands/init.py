"""``stimulative init``: a recipe for one's own model and data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stimulative.cli.from_option import add_from, from_settings
from stimulative.cli.progress import progress_bar
from stimulative.errors import UsageError

TAKES_SETTINGS = True
_EXAMPLES = """examples:
  stimulative init --model cifar/resnet20 --data digits --out digits.yaml
  stimulative init --model timm/resnet50 --data folder:photos --from pretrained --out photos.yaml
  stimulative init --model timm/vit_tiny_patch16_224 --data cifar10 --lr-range-test
  stimulative init --from runs/common --data folder:photos --method.balance 2
  stimulative init --from all-MiniLM-L6-v2 --data sentences:PATH --out minilm.yaml     a saved sentence encoder
  stimulative init --model transformers/gpt2 --data pydoc --model.arguments "{n_layer: 6, n_embd: 96, n_head: 4}\""""
_ROWS = 12


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "init",
        help="write a recipe for your own model and data",
        description="Look at a model and at data, and write a commented recipe for both: batch size, optimiser,\n"
        "learning rate, epochs and what else follows from what is found, each with its reason.",
        usage="stimulative init --model NAME --data NAME [--from RUN|DIR|FILE|pretrained] [--out FILE] [--force] "
        "[--lr-range-test] [--section.key VALUE ...]",
        examples=_EXAMPLES,
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="cifar/NAME, timm/NAME, torchvision/NAME, transformers/MODEL_TYPE or package.module:factory (default: "
        "that of --from RUN, or of --from DIR, where Transformers saved a model)",
    )
    parser.add_argument(
        "--data",
        metavar="NAME",
        required=True,
        help="digits, cifar10, cifar100, folder:PATH, wds:PATTERN, fake, pydoc, text:PATH, sentences:PATH or "
        "package.module:name",
    )
    add_from(parser)
    parser.add_argument("--out", metavar="FILE", default="recipe.yaml", help="file to write (default: recipe.yaml)")
    parser.add_argument("--force", action="store_true", help="overwrite the file if it is there")
    parser.add_argument(
        "--lr-range-test",
        action="store_true",
        help="choose the learning rate by raising it over 100 steps of training until the loss breaks",
    )


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Write the recipe."""
    out = Path(options.out)
    if out.exists() and not options.force:
        raise UsageError(f"{out} is there already; overwrite it with --force, or choose another file with --out")
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent} to write {out.name} to; make it, or choose another --out")
    given = {word.partition("=")[0].removeprefix("--") for word in rest if word.startswith("--")}
    for option, key in (("model", "model.name"), ("data", "data.name")):
        if key in given:
            raise UsageError(f"--{key} is said with --{option} here")
    if options.lr_range_test and "optimizer.lr" in given:
        raise UsageError("got both --lr-range-test and --optimizer.lr; give one of them")
    from_settings(options.weights, rest)

    from stimulative import files
    from stimulative.proposing import lr_range_test, propose

    proposal = propose(options.model, options.data, weights=options.weights, settings=rest)
    print("\n".join(proposal.found()))
    if options.lr_range_test:
        with progress_bar("raising the learning rate") as show:
            test = lr_range_test(proposal.recipe, device=_device(), progress=show)
        proposal = proposal.with_rate(test)
        _show(test)
    try:
        files.write_text(out, proposal.to_yaml(out))
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; choose another file with --out") from error
    print(f"wrote {out}. Look at it, then: stimulative train {out} --out runs/{out.stem}")
    return 0


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _show(test: Any) -> None:
    from rich.table import Table

    from stimulative.cli.tables import print_table

    table = Table(title="learning-rate range test", title_justify="left")
    for column in ("lr", "loss", "smoothed"):
        table.add_column(column, justify="right", no_wrap=True)
    last = len(test.rates) - 1
    for row in sorted({round(last * number / (_ROWS - 1)) for number in range(_ROWS)}):
        table.add_row(f"{test.rates[row]:.2g}", f"{test.losses[row]:.4f}", f"{test.smoothed[row]:.4f}")
    print_table(table)
    print(f"falls fastest at {test.suggestion:g}, is lowest at {test.lowest:.2g}: optimizer.lr {test.suggestion:g}")
