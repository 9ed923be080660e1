"""The examples of the documentation run, and it names what exists."""

import re
from pathlib import Path

import pytest
import torch

from stimulative.cli import COMMANDS, main
from stimulative.methods import METHODS
from stimulative.training import shipped

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


# The examples of docs/deploy.md go with its commands, in test_deploy_page.py.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "deploy.md"], ids=lambda page: page.name)
def test_python_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert examples or page.name != "README.md"
    torch.manual_seed(0)
    exec("\n".join(examples), {})


def test_the_readme_shows_every_recipe_and_command():
    text = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in text for name in shipped())
    assert all(f"stimulative {command}" in text for command in COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_every_method_has_a_card():
    for name in METHODS:
        card = (ROOT / "src/stimulative/methods" / f"{name}.md").read_text()
        assert all(f"**{part}" in card for part in ("Use", "Settings", "Cost"))


def test_the_commands_of_the_readme_parse(capsys):
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^stimulative (.*?)(?:\s+#.*)?$", text, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        words = command.split()
        if words[0] in ("train", "compare") and words[1] in shipped():
            stand_in = [] if words[1].startswith("text-") else ["--data", "fake"]  # its text is part of Python
            assert main(["train", words[1], "--dry-run", *stand_in]) == 0
            assert "# network:" in capsys.readouterr().out
