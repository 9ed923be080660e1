"""A sentence encoder that is good at every depth, trained on texts without labels.

Cut after some of its layers, a pretrained encoder gives vectors that have little to do with its own. Here subnets learn
to give the main net's, and the main net keeps to what it gave before. Any encoder that Transformers saved will do:

    python examples/sentence_encoder.py path/to/all-MiniLM-L6-v2 --out runs/minilm

Without one, a small encoder with random weights learns from a few hundred texts, to see it work. The texts are
sentences of the manual that every Python ships, and of the docstrings of its modules; no page or module is in both
parts.
"""

import argparse
import ast
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import torch

from stimulative.analysis import adopt, evaluate
from stimulative.proposing import propose
from stimulative.runs import RunDirectory
from stimulative.training import load_recipe, train


def documents() -> Iterator[str]:
    """Pages of the manual, and the docstrings of each module."""
    yield from (topics[name] for name in sorted(topics))
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
        yield "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def sentences(document: str) -> Iterator[str]:
    """What reads like one: 4 to 40 words, mostly of letters."""
    for paragraph in document.split("\n\n"):
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
            if 4 <= len(sentence.split()) <= 40 and sum(map(str.isalpha, sentence)) > 0.7 * len(sentence):
                yield sentence


def write_texts(folder: Path, most: int | None = None) -> None:
    """Write ``train.txt`` and ``val.txt``, a sentence a line; every tenth document is for the second."""
    parts: dict[str, dict[str, None]] = {"train": {}, "val": {}}
    for number, document in enumerate(documents()):
        parts["train" if number % 10 else "val"].update(dict.fromkeys(sentences(document)))
    folder.mkdir(parents=True, exist_ok=True)
    known = parts["train"]
    for part, found in parts.items():
        texts = [text for text in found if part == "train" or text not in known]
        (folder / f"{part}.txt").write_text("\n".join(texts[:most]) + "\n", encoding="utf-8")


def small_encoder(folder: Path) -> Path:
    """Save an encoder of bytes with random weights."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    config = BertConfig(vocab_size=257, max_position_embeddings=64, initializer_range=0.2, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", nargs="?", help="directory in which Transformers saved an encoder")
    parser.add_argument("--out", type=Path, default=Path("runs/sentence-encoder"), help="where everything goes")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts-only", action="store_true", help="write OUT/texts and stop")
    options = parser.parse_args()

    write_texts(options.out / "texts", most=600 if options.encoder is None and not options.texts_only else None)
    if options.texts_only:
        return
    encoder = options.encoder or small_encoder(options.out / "encoder")
    given = {"data.length": 32, "data.batch_size": 16, "schedule.epochs": options.epochs, "seed": options.seed}
    words = [f"--{key}={value}" for key, value in given.items()]
    recipe = propose(None, f"sentences:{options.out / 'texts'}", weights=str(encoder), settings=words).recipe

    before = adopt(load_recipe(recipe, {"model.weights": None}), f"{encoder}/model.safetensors", options.out / "before")
    train(recipe, options.out / "trained")
    for run in (before, options.out / "trained"):
        evaluate(run, latency=False)
        print(f"{run}: layers, cosine to the encoder before training, rank correlation of similarities")
        for member in RunDirectory(run).family:
            print(f"{member.subnet}: {100 * member.score.quality:.1f} %  {member.score.more['rank_correlation']:.3f}")


if __name__ == "__main__":
    main()
