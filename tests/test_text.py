"""Language models from end to end: texts, their measures, training, and every question of the lab."""

import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interrupting import Interrupt
from safetensors.torch import load_file

from stimulative import data as data_room
from stimulative.analysis import adopt, draw_images, evaluate, open_run, recipe_for
from stimulative.cli import main
from stimulative.cli.data_option import data_settings
from stimulative.data import DataSettings, from_loaders
from stimulative.data.documents import hold_out_documents, pydoc, without_repetitions
from stimulative.data.sequences import Sequences
from stimulative.data.tokens import Bytes, tokenizer_of
from stimulative.errors import UsageError
from stimulative.residual import Subnet
from stimulative.runs import Family
from stimulative.training import Recipe, Score, in_precision_of, load_recipe, measure, train
from stimulative.training.accumulation import parts
from stimulative.training.temperature import LossCurve

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:after epoch")  # these nets learn next to nothing

LENGTH = 16
MODEL = {"n_layer": 3, "n_embd": 16, "n_head": 2, "n_positions": LENGTH}
NO_DROPOUT = {f"model.arguments.{part}_pdrop": 0.0 for part in ("resid", "embd", "attn")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of one's own: documents of several lengths, none a multiple of the sequences'."""
    root = tmp_path_factory.mktemp("texts")
    for split, count in (("train", 8), ("val", 3)):
        (root / split / "inner").mkdir(parents=True)
        for number in range(count):
            place = root / split / ("inner" if number % 2 else "")
            text = f"{split} {number}: " + "the quick brown fox jumps over the lazy dog. " * (number + 1) + "é"
            (place / f"{number}.txt").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def settings(folder: Path) -> dict[str, Any]:
    return {
        "model": {"name": "transformers/gpt2", "arguments": MODEL},
        "data": {"name": f"text:{folder}", "length": LENGTH, "batch_size": 8, "evaluation_batch_size": 16},
        "method": {"name": "stimulative"},
        "optimizer": {"name": "adamw", "lr": 3e-3},
        "schedule": {"epochs": 2},
        "training": {"threads": 1, "loggers": ["csv"], "device": "cpu"},
    }


@pytest.fixture(scope="module")
def recipe(settings: dict[str, Any]) -> Recipe:
    return load_recipe(settings)


@pytest.fixture(scope="module")
def recipe_file(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    file.write_text(recipe.to_yaml())
    return file


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "stimulative-seed0"
    train(recipe, out, progress=False)
    evaluate(out, latency_seconds=0)
    return out


def opened(folder: Path, *, seed: int = 0, **more: Any) -> data_room.Data:
    return data_room.load(DataSettings(name=f"text:{folder}", **{"length": LENGTH, "batch_size": 4, **more}), seed=seed)


# Documents


def test_pages_of_the_test_split_share_no_passage_with_training():
    documents = pydoc()
    assert len(documents.test) > 5 and len(documents.train) > 20
    assert sum(map(len, documents.test)) > 0.1 * sum(map(len, documents.train))

    def passages(texts: tuple[str, ...]) -> set[str]:
        return {" ".join(part.split()) for text in texts for part in text.split("\n\n") if len(part) > 60}

    assert not passages(documents.train) & passages(documents.test)
    assert pydoc() == documents


def test_a_page_that_is_mostly_part_of_another_is_left_out():
    one, other = "a passage that is longer than forty characters, once", "another passage of more than forty characters"
    pages = {"whole": f"{one}\n\n{other}\n\nthe end", "part": one, "half": f"{one}\n\n{other} and {other} and {other}"}
    assert without_repetitions(pages) == [f"{one}\n\n{other} and {other} and {other}", f"{other}\n\nthe end"]


def test_documents_are_held_out_whole_and_by_the_seed():
    sizes = [10] * 50
    train, held = hold_out_documents(sizes, 0.2, seed=0, purpose="validation")
    assert sorted(train + held) == list(range(50)) and len(held) == 10
    assert hold_out_documents(sizes, 0.2, seed=0, purpose="validation") == (train, held)
    assert hold_out_documents(sizes, 0.2, seed=1, purpose="validation")[1] != held
    assert hold_out_documents([5, 1], 0.1, seed=0, purpose="validation") == ([0], [1])  # none fits: the shortest
    with pytest.raises(UsageError, match="holding out a validation part needs 2 or more"):
        hold_out_documents([5], 0.1, seed=0, purpose="validation")


def test_validation_documents_are_not_trained_on(folder: Path):
    data = opened(folder, validation=0.3)

    def first_bytes(loader: Any) -> set[bytes]:
        found = {bytes(row[1:9].tolist()) for x, _ in loader for row in x["input_ids"] if row[0] == Bytes.end}
        assert found
        return found

    train, validation, test = (first_bytes(loader) for loader in (data.calibration, data.validation, data.test))
    assert not train & validation and len(train | validation) == 8
    assert len(test) == 3 and all(start.startswith(b"val ") for start in test)


# Sequences


@pytest.mark.parametrize("length", [1, 3, 4, 7, 100])
def test_every_token_of_a_document_is_predicted_once(length: int):
    texts = ["abcdef", "é", "xyz"]
    sequences = Sequences.of(texts, Bytes(), length, torch.device("cpu"))
    x, y = sequences.batch(torch.arange(len(sequences)))
    counted = y != -100
    assert y[counted].tolist() == [b for text in texts for b in (*text.encode(), Bytes.end)]
    assert x["input_ids"][counted].tolist() == [b for text in texts for b in (Bytes.end, *text.encode())]
    assert torch.equal(x["attention_mask"], counted.long())
    assert all(row.tolist() == sorted(row.tolist(), reverse=True) for row in counted)  # padding is at the end
    documents = [math.ceil((len(text.encode()) + 1) / length) for text in texts]
    assert len(sequences) == sum(documents)


def test_batches_replay_by_epoch_and_seed_and_are_divided_among_processes(folder: Path):
    data = opened(folder)

    def tokens(of: data_room.Data, epoch: int) -> list[list[int]]:
        of.train.set_epoch(epoch)
        batches = list(of.train)
        assert len(batches) == len(of.train) and sum(len(y) for _, y in batches) == of.train.images
        return [row for x, _ in batches for row in x["input_ids"].tolist()]

    first = tokens(data, 0)
    assert first == tokens(opened(folder), 0) and first != tokens(data, 1) and first == tokens(data, 0)
    assert sorted(first) != sorted(tokens(opened(folder, seed=1), 0))  # other documents are held out
    load = {"seed": 0, "world_size": 2}
    name = DataSettings(name=f"text:{folder}", length=LENGTH, batch_size=4)
    shares = [tokens(data_room.load(name, rank=rank, **load), 0) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1])
    assert [row for pair in zip(*shares, strict=True) for row in pair] == first


def test_padding_never_counts(recipe: Recipe, trained: Path):
    network = open_run(trained).network
    x, y = next(iter(open_run(trained).data.validation))
    padded = y == -100
    assert padded.any()
    other = {**x, "input_ids": torch.where(padded, 7, x["input_ids"])}
    scores = [measure(network, [(one, y)], list(network.space)) for one in (x, other)]
    assert scores[0] == scores[1]


def test_the_vocabulary_and_what_guessing_gives(folder: Path):
    data = opened(folder)
    assert (data.task, data.classes, data.length) == ("text", 257, LENGTH)
    assert data.class_names[ord("a")] == "a" and data.class_names[10] == "\\n" and data.class_names[256] == "<end>"
    counts = torch.zeros(257)
    for _, y in data.calibration:
        counts += torch.bincount(y[y != -100], minlength=257)
    shares = counts / counts.sum()
    assert data.chance.top1 == pytest.approx(100 * shares.max().item())
    assert data.chance.loss == pytest.approx(-(shares[shares > 0] * shares[shares > 0].log()).sum().item(), rel=1e-5)


def test_a_tokenizer_of_ones_own(folder: Path, tmp_path: Path):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [file.read_text() for file in sorted(folder.rglob("*.txt"))]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    made.train_from_iterator(texts, trainer)
    file = tmp_path / "tokenizer.json"
    made.save(str(file))
    opened_one = tokenizer_of(str(file))
    assert opened_one.end == 0 and opened_one.encode(texts[0]) == made.encode(texts[0]).ids
    data = opened(folder, tokenizer=str(file))
    assert data.classes == made.get_vocab_size() and data.class_names[0] == "<|endoftext|>"
    assert data.train.images < opened(folder).train.images
    without_end = Tokenizer(models.BPE())
    without_end.save(str(file))
    with pytest.raises(UsageError, match="no token for the end of a document"):
        tokenizer_of(str(file))


# What cannot be


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "pydoc", "image_size": 32}, "data.image_size: a setting of images, got 32 for 'pydoc'"),
        ({"name": "pydoc", "flip": False}, "data.flip: a setting of images, got False for 'pydoc'"),
        ({"name": "text:x", "mean": (0.5,), "std": (0.5,)}, "data.mean: a setting of images"),
        (
            {"name": "digits", "length": 64},
            r"data.length: a setting of texts \(pydoc, text:PATH, sentences:PATH\), got 64 for 'digits'",
        ),
        ({"name": "fake", "tokenizer": "x"}, "data.tokenizer: a setting of texts"),
        ({"name": "text:"}, "data.name: 'text:' needs the path"),
        ({"name": "text", "path": "books"}, "a folder of texts is given in the name, as data.name: text:books"),
        ({"name": "pydoc", "length": 0}, "data.length: expected a whole number of at least 1, got 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said) as caught:
        data_room.load(DataSettings(**given), seed=0)
    assert str(caught.value).count("\n") <= 1  # each mistake is told once


def test_texts_that_cannot_be_read_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"train is not a folder; expected .* to hold train/ and val/"):
        opened(tmp_path / "nowhere")
    copy = tmp_path / "texts"
    shutil.copytree(folder, copy)
    (copy / "val" / "0.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UsageError, match=r"0.txt cannot be read as text .*save it as UTF-8, or remove it"):
        opened(copy)
    for file in (copy / "val").rglob("*.txt"):
        file.write_text("")
    with pytest.raises(UsageError, match=r"holds no text; expected files ending in \.txt that are not empty"):
        opened(copy)
    with pytest.raises(UsageError, match=r"data.tokenizer: there is no .*; give bytes, the path of a tokenizer.json"):
        opened(folder, tokenizer=str(tmp_path / "none.json"))
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(UsageError, match=r"broken\.json cannot be read as a tokenizer"):
        opened(folder, tokenizer=str(tmp_path / "broken.json"))


def test_models_and_lengths_that_do_not_fit_are_refused(settings: dict[str, Any]):
    with pytest.raises(UsageError, match="classifies images, and the data are text"):
        load_recipe({**settings, "model": {"name": "cifar/resnet20"}})
    long = load_recipe(settings, {"data.length": 64})
    with pytest.raises(UsageError, match=r"does not run on sequences of 64 tokens.*Choose another length"):
        train(long, "never", progress=False)
    assert not Path("never/recipe.yaml").exists()


def test_another_data_set_for_a_recipe_drops_what_is_said_of_the_other_kind():
    text = load_recipe("text-gpt2-tiny", data_settings("text-gpt2-tiny", "text:x"))
    assert (text.data.name, text.data.length) == ("text:x", 64)
    images = data_settings("text-gpt2-tiny", "cifar10")
    assert (
        load_recipe("text-gpt2-tiny", [*images, "--model.name=cifar/resnet20", "--model.arguments={}"]).data.length
        is None
    )
    with pytest.raises(UsageError, match="made-up images cannot stand for the texts of pydoc"):
        data_settings("text-gpt2-tiny", "fake")
    on_text = ["--model.name=transformers/gpt2", "--model.arguments={}"]
    assert load_recipe("digits", [*data_settings("digits", "pydoc"), *on_text]).data.crop_padding == 4


# Measuring


def test_loss_accuracy_and_perplexity_equal_those_worked_out_by_hand():
    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    class Network(torch.nn.Module):
        """A network whose logits are its input."""

        full = Subnet.from_depths((1,))

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def split(self, batch: Any) -> Any:
            return batch[0], batch[1:]

        def uncompiled(self) -> Any:
            return nullcontext()

        def passes(self, x: Any, subnets: list[Subnet], statistics: Any = None) -> Any:
            return [(0, {"logits": x}, False)]

    third, half = math.log(1 / 3), math.log(1 / 2)
    logits = torch.tensor(
        [
            [[third, third, third], [half, half, -1e9], [0.0, 0.0, 9.0]],
            [[-1e9, half, half], [9.0, 0.0, 0.0], [9.0, 0.0, 0.0]],
        ]
    )
    y = torch.tensor([[0, 1, -100], [2, -100, -100]])
    network: Any = Network()
    # one batch, or a sequence each: weighted by what counts, (ln 3 + ln 2 + ln 2) / 3
    for batches in ([(logits, y)], [(logits[:1], y[:1]), (logits[1:], y[1:])]):
        (score,) = measure(network, batches)
        assert score.loss == pytest.approx(math.log(12) / 3)
        assert score.perplexity == pytest.approx(12 ** (1 / 3))
        assert score.quality == pytest.approx(100 / 3)  # argmax takes the first of equal ones


def test_the_perplexity_of_every_subnet_equals_a_plain_loop(trained: Path):
    run = open_run(trained)
    network, data = run.network, run.data
    family = {str(member.subnet): member for member in list(Family.read(trained / "subnets.csv"))}
    assert list(family) == ["1", "2", "3"]
    for depth in (1, 2, 3):
        model = network.model
        blocks = model.transformer.h
        model.transformer.h = blocks[:depth]
        total, right, count = 0.0, 0, 0
        with torch.no_grad():
            model.eval()
            for x, y in data.test:
                for row, mask, targets in zip(x["input_ids"], x["attention_mask"], y, strict=True):
                    size = int(mask.sum())
                    logits = model(row[None, :size]).logits[0]  # the sequence alone, without its padding
                    for position in range(size):
                        total -= F.log_softmax(logits[position].double(), -1)[targets[position]].item()
                        right += int(logits[position].argmax() == targets[position])
                    count += size
        model.transformer.h = blocks
        score = family[str(depth)].score
        assert score.perplexity == pytest.approx(math.exp(total / count), rel=1e-4)
        assert score.quality == pytest.approx(100 * right / count, abs=0.01)


def test_a_temperature_is_fitted_to_the_positions_that_count():
    torch.manual_seed(0)
    logits, y = 5 * torch.randn(4, 6, 5), torch.randint(5, (4, 6))
    y[:, 4:] = -100
    masked, plain = LossCurve(), LossCurve()
    masked.add(logits, y)
    plain.add(logits[:, :4].flatten(0, 1), y[:, :4].flatten())
    assert masked.temperature() == pytest.approx(plain.temperature(), rel=1e-10) and masked.samples == 16


def test_tokens_keep_their_number_format(trained: Path):
    network = open_run(trained).network.double()
    x = {"input_ids": torch.zeros(1, 2, dtype=torch.int64), "inputs_embeds": torch.ones(1, 2, 4)}
    ((changed, _),) = in_precision_of(network, [(x, torch.zeros(1, 2))])
    assert (changed["input_ids"].dtype, changed["inputs_embeds"].dtype) == (torch.int64, torch.float64)
    assert Score(50.0, 1.0).to_mapping() == {"top1": 50.0, "loss": 1.0}


def test_batches_of_a_step_weigh_as_much_as_the_tokens_in_them():
    y = [
        torch.tensor([[1, 1, -100]]),
        torch.tensor([[1, -100, -100]]),
        torch.tensor([[1, 1, 1]]),
        torch.tensor([[1] * 3]),
    ]
    batches: list[Any] = [(None, one) for one in y]
    by_tokens = list(parts(batches, 4, 3, by_tokens=True))
    assert [part.share for part in by_tokens] == [2 / 6, 1 / 6, 3 / 6, 1.0]
    assert [part.last for part in by_tokens] == [False, False, True, True]
    assert [part.share for part in parts(batches, 4, 3, by_tokens=False)] == [1 / 3, 1 / 3, 1 / 3, 1.0]


# Training


def test_a_run_tells_its_perplexity(trained: Path):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["main"]["perplexity"] == pytest.approx(math.exp(summary["main"]["loss"]))
    of_all = summary["subnets"]["perplexity"]
    assert of_all["min"] <= of_all["mean"] <= of_all["max"] and summary["subnets"]["calibration_images"] == 0
    assert all("perplexity" in row for row in summary["by_blocks"] + summary["by_stage"])
    assert 1 < summary["main"]["perplexity"] < 257
    member = list(Family.read(trained / "subnets.csv"))[-1]
    assert member.score.perplexity == pytest.approx(summary["main"]["perplexity"], rel=1e-4)
    assert member.cost.flops > 0 and member.latency is not None and summary["latency"]["batch"] == 1


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"method.schedule": "lean", "training.accumulate": 2},
        {"training.precision": "bf16-mixed"},
    ],
    ids=["plain", "lean and accumulated", "bf16-mixed"],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(recipe: Recipe, tmp_path: Path, more: dict[str, Any]):
    recipe = recipe.override(more)
    train(recipe, tmp_path / "whole", progress=False)

    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, broken, progress=False, callbacks=[Interrupt(checkpoint=("checkpoint-last.ckpt", 1))])
    train(recipe, broken, resume=True, progress=False)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_lean_training_equals_joint_training(recipe: Recipe, tmp_path: Path):
    for name in ("joint", "lean"):
        train(recipe.override({"method.schedule": name, "schedule.max_steps": 4}), tmp_path / name, progress=False)
    joint, lean = (load_file(tmp_path / name / "model.safetensors") for name in ("joint", "lean"))
    for key, value in joint.items():
        torch.testing.assert_close(lean[key], value, rtol=1e-4, atol=1e-5)


def test_accumulated_batches_equal_a_large_one(recipe: Recipe, tmp_path: Path):
    base = recipe.override(
        NO_DROPOUT
        | {
            "method.name": "common",
            "schedule.max_steps": 1,
            "schedule.warmup_epochs": 0,
            "optimizer.name": "sgd",
            "optimizer.lr": 0.5,
        }
    )
    train(base, tmp_path / "large", progress=False)
    small = base.override({"data.batch_size": 2, "training.accumulate": 4})
    train(small, tmp_path / "small", progress=False)
    large, small_one = (load_file(tmp_path / name / "model.safetensors") for name in ("large", "small"))
    for key, value in large.items():
        torch.testing.assert_close(small_one[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_loaders_of_ones_own_may_give_text(folder: Path, recipe: Recipe, tmp_path: Path):
    theirs = opened(folder)
    batches = {name: list(getattr(theirs, name)) for name in ("train", "validation", "test")}
    data = from_loaders(**batches, classes=257)
    assert (data.task, data.length, data.train.images) == ("text", LENGTH, theirs.train.images)
    summary = train(recipe, tmp_path / "run", data=data, progress=False)
    assert summary["main"]["perplexity"] < 257
    x, y = batches["train"][0]
    with pytest.raises(UsageError, match="one target per token of input_ids"):
        from_loaders([(x, y[:, 0])], [(x, y)], [(x, y)], classes=257)
    with pytest.raises(UsageError, match="labels from 0 to 9, as classes=10 says"):
        from_loaders([(x, y)], [(x, y)], [(x, y)], classes=10)


def test_a_net_that_learns_nothing_is_told(recipe: Recipe, tmp_path: Path):
    with pytest.warns(UserWarning, match="not below that of guessing by frequency alone"):
        train(recipe.override({"optimizer.lr": 1e-9, "method.name": "common"}), tmp_path / "run", progress=False)


# The lab


def test_draws_of_test_sequences_keep_tokens_and_targets_together(folder: Path):
    data = opened(folder, evaluation_batch_size=5)
    everything = [(x["input_ids"][i].tolist(), y[i].tolist()) for x, y in data.test for i in range(len(y))]
    drawn = draw_images(data.test, 7, seed=0)
    chosen = [(x["input_ids"][i].tolist(), y[i].tolist()) for x, y in drawn for i in range(len(y))]
    assert len(chosen) == 7 and all(pair in everything for pair in chosen)


def test_every_command_of_the_lab_answers_for_texts(
    recipe_file: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def said(*words: Any) -> str:
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    assert "next-token accuracy in %" in said("evaluate", trained, "--no-latency")
    assert "main_perplexity" in said("destroy", trained, "--out", tmp_path / "d", "--draws", "2", "--json")
    assert "perplexity" in (tmp_path / "d" / "single.csv").read_text().splitlines()[0]
    report = said("report", trained, tmp_path / "d", "--out", tmp_path / "report")
    page = Path(report.split()[1]).read_text()
    assert "next-token accuracy" in page and "Perplexity by number of blocks" in page and "top-1" not in page
    assert "perplexity" in (tmp_path / "report" / "figures" / "family.csv").read_text().splitlines()[0]


def test_studies_of_several_runs_answer_for_texts(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    quick = ["--schedule.epochs", "1", "--seeds", "1"]
    studies: dict[str, list[str]] = {
        "compare": ["--methods", "common,stimulative"],
        "loafing": ["--main", "3", "--subnets", "1"],
        "matrix": ["--nets", "1", "3"],
        "sweep": ["--key", "method.balance", "--values", "1"],
    }
    for study, words in studies.items():
        out = tmp_path / study
        assert main([study, str(recipe_file), "--out", str(out), *words, *quick]) == 0, study
        told = capsys.readouterr().out
        assert "next-token accuracy in %" in told and "top-1" not in told, study
        assert "perplexity" in told or "ppl" in told
    numbers = json.loads((tmp_path / "compare" / "comparison.json").read_text())
    assert all(row["main_perplexity"] > 1 and row["all_perplexity_max"] > 1 for row in numbers["rows"])
    assert "main perplexity" in (tmp_path / "compare" / "comparison.md").read_text()
    (row,) = json.loads((tmp_path / "loafing" / "loafing.json").read_text())["rows"]
    assert row["alone_perplexity_mean"] > 1
    assert all("perplexity" in cell for cell in json.loads((tmp_path / "matrix" / "matrix.json").read_text())["cells"])
    assert main(["report", *(str(tmp_path / study) for study in studies), "--out", str(tmp_path / "report")]) == 0


def test_weights_from_elsewhere_are_measured_on_texts(recipe: Recipe, trained: Path, folder: Path, tmp_path: Path):
    words = [f"--data.length={LENGTH}", "--training.threads=1", f"--model.arguments={json.dumps(MODEL)}"]
    one = recipe_for("transformers/gpt2", f"text:{folder}", words)
    out = adopt(one, trained / "model.safetensors", tmp_path / "adopted", device="cpu")
    summary = evaluate(out, latency=False)
    before = json.loads((trained / "summary.json").read_text())
    assert summary["main"]["perplexity"] == pytest.approx(before["main"]["perplexity"], rel=1e-4)


def test_the_recipe_trains(tmp_path: Path):
    recipe = load_recipe("text-gpt2-tiny", {"schedule.max_steps": 1, "data.batch_size": 2, "training.loggers": ["csv"]})
    from stimulative.training import prepare

    prepared = prepare(recipe)
    assert str(prepared.network.space.smallest) == "1" and str(prepared.network.full) == "6"
    assert prepared.data.train.images > 4000
