"""Recipe files that were changed, from the shipped ones."""

import random
from pathlib import Path

import yaml

from fuzz.changing import changed, changed_text
from fuzz.judging import told
from fuzz.kinds import Input
from fuzz.small_run import TINY, without_work
from stimulative.cli import main
from stimulative.config import load_recipe
from stimulative.errors import UsageError

RECIPES = Path(__file__).parents[2] / "src/stimulative/recipes"


class RecipeFiles:
    """Recipes as values and as texts; those of digits are prepared as for training, others are read."""

    def __init__(self, place: Path) -> None:
        self.file = place / "recipe.yaml"
        self.shipped = [path.read_text() for path in sorted(RECIPES.glob("*.yaml"))]
        self.whole = load_recipe("digits", {**TINY, "method.name": "stimulative"}).to_mapping()

    def input(self, draw: random.Random) -> Input:
        how = draw.random()
        if how < 0.6:
            text = yaml.safe_dump(changed(self.whole, draw), allow_unicode=draw.random() < 0.5)
            return f"recipe {text}", lambda: self._plan(text)
        if how < 0.8:
            text = changed_text(yaml.safe_dump(self.whole), draw)
            return f"recipe {text}", lambda: self._plan(text)
        text = changed_text(draw.choice(self.shipped), draw)
        return f"recipe {text}", lambda: self._read(text)

    def _written(self, text: str) -> str:
        self.file.write_text(text, encoding="utf-8", errors="surrogatepass")
        return str(self.file)

    def _read(self, text: str) -> None:
        recipe = load_recipe(self._written(text))
        load_recipe(yaml.safe_load(recipe.to_yaml()))

    def _plan(self, text: str) -> None:
        with told() as said, without_work():
            status = main(["train", self._written(text), "--out", "x", "--dry-run"])
        if status:
            raise UsageError(said())
