"""Sentence encoders from end to end: pooling, saved models, texts without labels, training, and what is deployed."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interrupting import Interrupt
from safetensors.torch import load_file, save_file

import stimulative
from stimulative import models
from stimulative.analysis import evaluate, open_run
from stimulative.cli import main
from stimulative.data import DataSettings, SentenceData, load
from stimulative.data.tokens import Bytes, tokenizer_of
from stimulative.errors import UsageError
from stimulative.models import SavedModel, SentenceEncoder
from stimulative.proposing import lr_range_test, propose
from stimulative.runs import Family, RunDirectory
from stimulative.training import Recipe, load_recipe, train

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:after epoch")

WORDS = ("stone", "river", "green", "seven", "walks", "under", "bright", "clouds")
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}


def bert(**fields: Any) -> Any:
    torch.manual_seed(0)
    given = {"vocab_size": 16, "max_position_embeddings": 32, "initializer_range": 0.3, **SIZES, **fields}
    return transformers.BertModel(transformers.BertConfig(**given))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a hub has of a sentence encoder: config, weights with a pooler, tokenizer, and how it pools."""
    folder = tmp_path_factory.mktemp("encoder")
    bert().save_pretrained(folder)
    known = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    (folder / "vocab.txt").write_text("\n".join(known) + "\n")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_x": False})
    )
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, drawn = tmp_path_factory.mktemp("texts"), random.Random(0)
    for part, count in (("train", 60), ("val", 30)):
        lines = [" ".join(drawn.choices(WORDS, k=drawn.randint(2, 9))) for _ in range(count)]
        (folder / f"{part}.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def recipe(saved: Path, texts: Path) -> Recipe:
    words = ["--data.length=8", "--schedule.epochs=6", "--optimizer.lr=2e-3", "--training.device=cpu"]
    return propose(None, f"sentences:{texts}", weights=str(saved), settings=words).recipe


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "elastic"
    train(recipe, out, progress=False)
    evaluate(out, latency=False)
    return out


def opened(texts: Path, **settings: Any) -> SentenceData:
    data = load(DataSettings(f"sentences:{texts}", **{"batch_size": 8, **settings}), seed=0)
    assert isinstance(data, SentenceData)
    return data


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_text_has_the_same_vector_alone_and_padded(pooling, normalise):
    backbone = bert().eval()
    encoder = SentenceEncoder(backbone, pooling, normalise=normalise).eval()
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]])
    mask = (ids != 0).long()
    with torch.no_grad():
        got = encoder(ids, mask)
        for vector, tokens in zip(got, ([2, 5, 6, 7, 3], [2, 8, 3]), strict=True):
            states = backbone(torch.tensor([tokens])).last_hidden_state[0]
            wanted = states[0] if pooling == "cls" else sum(states) / len(tokens)
            torch.testing.assert_close(vector, wanted / wanted.norm() if normalise else wanted)


def test_an_encoder_by_name_and_what_cannot_be_one():
    encoder = models.build("transformers/roberta", classes=20, arguments={**SIZES, "pooling": "cls"}, task="embedding")
    assert isinstance(encoder, SentenceEncoder)
    assert encoder.pooling == "cls"
    of_t5 = models.build("transformers/t5", classes=20, arguments={"d_model": 8, "num_layers": 2}, task="embedding")
    assert type(of_t5.backbone).__name__ == "T5EncoderModel"
    for name, arguments, said in (
        ("transformers/bert", {"pooling": "max"}, "pooling is mean or cls, got 'max'"),
        (
            "transformers/bert",
            {"vocab_size": 10},
            "the model has 10 tokens, but the data have 20; give the model's own",
        ),
        ("transformers/bert", {"num_labels": 2}, "an encoder has no classes"),
        ("transformers/encodec", {}, "has no encoder of texts of model type 'encodec'"),
    ):
        with pytest.raises(UsageError, match=said):
            models.build(name, classes=20, arguments=arguments, task="embedding")


def test_texts_are_lines_with_the_tokens_that_belong_at_their_ends(texts, saved):
    data = opened(texts, length=8, tokenizer=str(saved), evaluation_batch_size=7)
    assert (data.task, data.unlabelled, data.classes) == ("embedding", True, 13)
    lines = [line for line in (texts / "val.txt").read_text().splitlines() if line]
    tokenizer = transformers.BertTokenizer.from_pretrained(str(saved))
    seen = 0
    for x, y in data.test:
        assert y is None
        of_batch = lines[seen : seen + len(x["input_ids"])]
        wanted = tokenizer(of_batch, padding=True, truncation=True, max_length=8, return_tensors="pt")
        assert torch.equal(x["input_ids"], wanted["input_ids"])
        assert torch.equal(x["attention_mask"], wanted["attention_mask"])
        seen += len(of_batch)
    assert seen == len(lines) == 30
    assert (data.train.images, data.validation.images) == (48, 6) or data.train.images + data.validation.images == 60
    assert tokenizer_of("bytes").whole("héllo", 4) == [*"hé".encode(), Bytes.end]


def test_what_a_directory_says_of_a_saved_model(saved, tmp_path):
    found = SavedModel.at(saved)
    assert found is not None
    assert found.settings("embedding") == {
        "name": "transformers/bert",
        "arguments": {
            **{"vocab_size": 16, "max_position_embeddings": 32, "initializer_range": 0.3, **SIZES},
            **{"pooling": "mean", "normalise": True},
        },
    }
    assert found.settings("embedding", dropout=False)["arguments"]["hidden_dropout_prob"] == 0
    assert SavedModel.at(tmp_path) is None
    for file, content, said in (
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pools by pooling_mode_max_tokens"),
        ("modules.json", [{"path": "3", "type": "a.Dense"}], "puts Dense behind the encoder"),
        ("modules.json", None, "modules.json cannot be read"),
    ):
        folder = tmp_path / "copy"
        shutil.copytree(saved, folder, dirs_exist_ok=True)
        (folder / file).write_text("{" if content is None else json.dumps(content))
        with pytest.raises(UsageError, match=said):
            SavedModel(folder).settings("embedding")
    (tmp_path / "copy/model.safetensors").unlink()
    with pytest.raises(UsageError, match="weights in several files are not read"):
        _ = SavedModel(tmp_path / "copy").weights


@pytest.mark.parametrize("start", ["", "bert.", "0.auto_model."])
def test_weights_are_found_whatever_is_around_them(saved, recipe, tmp_path, start):
    given = {f"{start}{name}": value for name, value in load_file(saved / "model.safetensors").items()}
    more = {f"{start}embeddings.position_ids": torch.arange(4), "cls.predictions.bias": torch.ones(3)}
    assert f"{start}pooler.dense.bias" in given
    save_file({**given, **(more if start else {})}, tmp_path / "all.safetensors")
    prepared = stimulative.training.prepare(
        recipe.override({"model.weights": str(tmp_path / "all.safetensors")}), weights=True
    )
    for name, value in prepared.network.model.backbone.state_dict().items():
        assert torch.equal(value, given[f"{start}{name}"]), name


def test_subnets_learn_what_the_net_gave_before_it_was_trained(trained, saved, texts, capsys):
    whole = SentenceEncoder(transformers.BertModel.from_pretrained(str(saved))).eval()
    run = open_run(trained)
    distances, batches = [], 0
    with torch.no_grad():
        for x, y in run.data.test:
            assert torch.allclose(y, whole(**x), atol=1e-6), "targets are the embeddings of the start"
            distances.append(1 - F.cosine_similarity(run.network.model.eval()(**x), y))
            batches += 1
    assert batches
    stored, family = RunDirectory(trained).summary, RunDirectory(trained).family
    assert stored.main.loss == pytest.approx(float(torch.cat(distances).mean()), abs=1e-6)
    assert stored.main.quality == pytest.approx(1 - stored.main.loss, abs=1e-6)

    out = trained.parent / "before"
    words = ["--weights", str(saved), "--data", f"sentences:{texts}", "--data.length", "8", "--out", str(out)]
    assert main(["evaluate", *words, "--no-latency"]) == 0
    assert "rank correlation" in capsys.readouterr().out
    before = RunDirectory(out).family
    assert [str(member.subnet) for member in before] == ["1", "2", "3"]
    assert before.members[-1].score.quality == pytest.approx(1, abs=1e-6)
    assert before.members[-1].score.more["rank_correlation"] == pytest.approx(1, abs=1e-4)
    for old, new in zip(before.members[:-1], family.members[:-1], strict=True):
        assert new.score.quality > old.score.quality + 0.1
    assert family.members[-1].score.quality > 0.95
    assert before.members[0].score.quality == pytest.approx(_cosine_of_one_layer(whole, open_run(out).data), abs=1e-4)


def _cosine_of_one_layer(whole: SentenceEncoder, data: Any) -> float:
    """By Transformers alone: the mean over tokens of the hidden states behind the first layer."""
    cosines = []
    with torch.no_grad():
        for x, _ in data.test:
            states = whole.backbone(**x, output_hidden_states=True).hidden_states[1]
            mask = x["attention_mask"][..., None]
            cosines.append(F.cosine_similarity((states * mask).sum(1) / mask.sum(1), whole(**x)))
    return float(torch.cat(cosines).mean())


def test_a_run_that_was_stopped_ends_with_the_same_weights_without_its_start(recipe, saved, trained, tmp_path):
    copy = tmp_path / "start"
    shutil.copytree(saved, copy)
    here = recipe.override({"model.weights": str(copy)})
    with pytest.raises(KeyboardInterrupt):
        train(here, tmp_path / "run", progress=False, callbacks=[Interrupt(checkpoint=("checkpoint-last.ckpt", 2))])
    shutil.rmtree(copy)  # its weights are in the run
    train(here, tmp_path / "run", progress=False, resume=True)
    whole, resumed = (load_file(run / "model.safetensors") for run in (trained, tmp_path / "run"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    evaluate(tmp_path / "run", latency=False)
    assert (tmp_path / "run/subnets.csv").read_text() == (trained / "subnets.csv").read_text()
    start = load_file(tmp_path / "run/reference.safetensors")
    assert all(torch.equal(value, start[f"backbone.{name}"]) for name, value in _encoding(saved).items())
    (tmp_path / "run/reference.safetensors").unlink()
    with pytest.raises(
        UsageError, match=r"reference\.safetensors is missing, whose outputs the run's nets are compared"
    ):
        evaluate(tmp_path / "run", latency=False)


def _encoding(saved: Path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in load_file(saved / "model.safetensors").items() if "pooler" not in name}


def test_a_subnet_trained_alone_learns_from_the_whole_net(recipe, saved):
    run = stimulative.training.prepare(recipe.override({"model.subnet": "1"}), weights=True)
    assert len(run.network.model.backbone.encoder.layer) == 1
    whole = SentenceEncoder(transformers.BertModel.from_pretrained(str(saved))).eval()
    x, y = next(iter(run.data.train))
    with torch.no_grad():
        assert torch.allclose(y, whole(**x), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model.weights": None}, "texts without labels: the net keeps to the embeddings .* so it has to start from"),
        ({"data.tokenizer": "bytes"}, "the model has 16 tokens, but the data have 257; give the model's own tokenizer"),
        ({"data.name": "sentences:"}, "needs the path of a folder with train.txt and val.txt"),
        (
            {"data.name": "sentences:none"},
            "there is no file none/train.txt; expected none to hold train.txt and val.txt",
        ),
        ({"data.flip": False}, "data.flip: a setting of images, got False for 'sentences:"),
        ({"model.arguments": {**SIZES, "num_hidden_layers": 2}}, "layer.2"),
        ({"data.length": 64}, "does not run on texts of 64 tokens"),
    ],
)
def test_what_does_not_fit_is_refused(recipe, tmp_path, settings, said):
    with pytest.raises(UsageError, match=said):
        train(recipe.override(settings), tmp_path / "run", progress=False)
    assert not (tmp_path / "run/recipe.yaml").exists()


def test_no_learning_rate_lowers_a_loss_that_starts_at_0(recipe):
    with pytest.raises(UsageError, match="the main net starts where its targets are, so that its loss can only rise"):
        lr_range_test(recipe)


def test_folders_that_are_no_texts(tmp_path, saved):
    (tmp_path / "train.txt").write_text("\n \n")
    (tmp_path / "val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="holds no text; expected a text a line"):
        opened(tmp_path)
    (tmp_path / "train.txt").write_text("one text\nanother\n")
    with pytest.raises(UsageError, match="cannot be read as text"):
        len(opened(tmp_path).test)
    (tmp_path / "train.txt").write_text("one text\n")
    with pytest.raises(UsageError, match="of 1 training texts leaves none to train on; add texts"):
        opened(tmp_path)


def test_the_command_line_from_a_saved_encoder_to_what_is_deployed(saved, texts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ["--data", f"sentences:{texts}", "--data.length", "8"]
    assert main(["train", "--from", str(saved)]) == 2
    assert "--data sentences:PATH" in capsys.readouterr().err
    assert main(["init", "--from", str(saved), *data, "--out", "mine.yaml"]) == 0
    assert main(["train", "mine.yaml", "--dry-run"]) == 0
    assert "48 training, 12 validation texts of up to 8 tokens" in capsys.readouterr().out
    assert main(["train", "--from", str(saved), *data, "--max-steps", "3", "--out", "run"]) == 0
    assert " cosine, loss" in capsys.readouterr().out
    assert load_recipe("run/recipe.yaml").override({"schedule.max_steps": None}) == load_recipe("mine.yaml")
    assert main(["evaluate", "run", "--no-latency"]) == 0
    assert main(["choose", "run", "--max-params", "20k"]) == 0
    assert main(["export", "run", "--subnet", "2", "--format", "onnx"]) == 0
    assert "a vector for each text" in capsys.readouterr().out
    assert main(["export", "run", "--subnet", "2", "--format", "safetensors"]) == 0
    assert "'num_hidden_layers': 2" in capsys.readouterr().out, "built again with two layers"
    assert main(["pack", "run", "--subnets", "1", "3"]) == 0
    assert main(["report", "run", "--out", "report"]) == 0
    assert "rank" in Path("run/subnets.csv").read_text()

    family, run = stimulative.load("run/family.safetensors"), open_run("run")
    x, _ = next(iter(run.data.test))
    with torch.no_grad(), family.use("1"):
        torch.testing.assert_close(family(**x), run.network.eval()(x, "1"))
    assert Family.read(Path("run/subnets.csv")).measure == "cosine"
