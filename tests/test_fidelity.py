"""The page that compares recipes with papers and code says of every setting what the recipe has."""

import re
from pathlib import Path

import pytest
import yaml

from stimulative.config import shipped
from stimulative.training import load_recipe

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "fidelity.md").read_text()
RECIPES = ("imagenet-resnet50", "imagenet-resnet50-plus", "imagenet-resnet50-plus-400")
WHOLE = {"model.arguments", "method.sampler", "method.normalise_again"}


def said(recipe: str) -> dict[str, object]:
    """What the page says that a recipe has, what it takes over from another one included."""
    (section,) = re.findall(rf"^## {re.escape(recipe)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    of_other = re.search(r"that are not listed are those of `(.+)`", section)
    found = said(of_other[1]) if of_other else {}
    for row in re.findall(r"^\| `([\w.]+)` \|(.*)\|$", section, re.MULTILINE):
        ours = row[1].split(" | ")[2].strip()
        found[row[0]] = yaml.safe_load(ours.strip("`"))
    return found


def flat(mapping: dict[str, object], start: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in mapping.items():
        whole = start + key
        found |= flat(value, f"{whole}.") if isinstance(value, dict) and whole not in WHOLE else {whole: value}
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_of_a_recipe_stands_there_with_its_value(recipe):
    file = ROOT / "src" / "stimulative" / "recipes" / f"{recipe}.yaml"
    assert said(recipe) == flat(yaml.safe_load(file.read_text()))


def test_the_balances_of_the_recipes_for_cifar():
    rows = re.findall(r"^\| `(cifar[\w-]+)` \| .*? \| ([\d.]+)[,;]", PAGE, re.MULTILINE)
    assert len(rows) == 5 and {name for name, _ in rows} <= set(shipped())
    for name, balance in rows:
        assert load_recipe(name).method.settings["balance"] == float(balance), name
