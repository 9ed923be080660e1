"""Images in shards are those of the folder they were made of; each is seen once, in few shards at a time."""

import gzip
import io
import json
import os
import pickle
import shutil
import signal
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_stopping import Send, assert_equal

from stimulative.data import DataSettings, every, index_shards, load, write_shards
from stimulative.data import shard_index as shard_lists
from stimulative.data.shard_index import read_shard
from stimulative.data.shard_patterns import find_shards, pattern_problem
from stimulative.data.shards import InStreams, ShardImages
from stimulative.errors import UsageError
from stimulative.training import TrainingStopped, load_recipe, train

PLAIN = {"flip": False, "crop_scale": (1.0, 1.0), "crop_aspect": (1.0, 1.0), "crop_ratio": 1.0}
"""Augmentation that leaves square images as they are, so that each can be told by its pixels."""
CLASSES = ("apple", "pear", "quince")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STIMULATIVE_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_folder(root: Path, per_class: int = 8) -> Path:
    """Images of 8x8 pixels, each of another colour, in `train/` and `val/`."""
    for part, split in enumerate(("train", "val")):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(per_class):
                colour = (label * 80, number * 10, part * 100)
                Image.new("RGB", (8, 8), colour).save(root / split / name / f"{number}.png")
    return root


def settings(place: Path, train: str = "train-*.tar", test: str = "val-*.tar", **options: Any) -> DataSettings:
    defaults = {"image_size": 8, "batch_size": 2, "evaluation_batch_size": 5, "validation": 0.25, "workers": 0}
    return DataSettings(f"wds:{place}/{train}", test_shards=f"{place}/{test}", **{**defaults, **PLAIN, **options})


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(write_folder(tmp_path / "folder"), tmp_path / "shards", images_per_shard=5)
    return tmp_path / "shards"


def shown(loader: Any) -> list[tuple[bytes, int]]:
    """The images of a pass with their labels, as values that can be counted."""
    return [(x.numpy().tobytes(), int(y)) for xs, ys in loader for x, y in zip(xs, ys, strict=True)]


def batches(loader: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(loader)


def equal(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


def write_tar(path: Path, members: dict[str, bytes | str]) -> Path:
    """A shard written by hand."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def png(colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(file, "PNG")
    return file.getvalue()


def samples(count: int = 6, **labels: Any) -> dict[str, bytes | str]:
    """Images of two classes in turn."""
    return {
        name: content
        for number in range(count)
        for name, content in ((f"{number}.png", png(number)), (f"{number}.cls", str(number % 2)))
    } | labels


# The same images as in a folder


def test_shards_hold_the_images_of_the_folder_they_were_made_of(shards: Path):
    data = load(settings(shards, train_images=24, classes=3), seed=0)
    options = {"image_size": 8, "batch_size": 2, "evaluation_batch_size": 5, "validation": 0.25, "workers": 0, **PLAIN}
    folder = load(DataSettings(f"folder:{shards.parent / 'folder'}", **options), seed=0)
    assert len(list(shards.glob("train-*.tar"))) == 5  # 24 images, 5 in each
    assert (data.class_names, data.classes) == (CLASSES, 3)
    assert equal(batches(data.test), batches(folder.test))
    for part in ("train", "validation", "calibration"):
        assert getattr(data, part).images == getattr(folder, part).images
    everything = [shown(one.plain_calibration) + shown(one.validation) for one in (data, folder)]
    assert Counter(everything[0]) == Counter(everything[1])
    assert len(set(everything[0])) == 24
    assert Counter(shown(data.train)) == Counter(shown(data.plain_calibration)) == Counter(shown(data.calibration))
    assert Counter(label for _, label in shown(data.validation)) == dict.fromkeys(range(3), 2)  # every class its share


def test_shards_are_the_same_for_the_same_seed_and_hold_several_classes(shards: Path, tmp_path: Path):
    write_shards(tmp_path / "folder", tmp_path / "again", images_per_shard=5)
    write_shards(tmp_path / "folder", tmp_path / "other", images_per_shard=5, seed=1)
    names = [file.name for file in sorted(shards.glob("*.tar"))]
    one, again, other = (
        [(place / name).read_bytes() for name in names] for place in (shards, tmp_path / "again", tmp_path / "other")
    )
    assert one == again != other
    assert all(len(set(read_shard(str(shards / name)).label)) > 1 for name in names if name < "train-00004")
    with pytest.raises(UsageError, match="exists already; remove the shards"):
        write_shards(tmp_path / "folder", shards)


# Every image once


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_is_seen_once_by_all_processes_and_workers(world: int, workers: int, shards: Path):
    alone = load(settings(shards, streams=2, batch_size=6), seed=0).train
    parts = [
        load(settings(shards, streams=2, batch_size=6, workers=workers), seed=0, rank=rank, world_size=world)
        for rank in range(world)
    ]
    for epoch in (0, 1):
        for loader in (alone, *(part.train for part in parts)):
            loader.set_epoch(epoch)
        read = [batches(part.train) for part in parts]
        seen = [image for part in parts for image in shown(part.train)]
        assert Counter(seen) == Counter(shown(alone))
        assert len(set(seen)) == len(seen) == 18
        assert len({len(of_rank) for of_rank in read}) == 1
        # the same batches as those of one process, divided
        for number, whole in enumerate(batches(alone)):
            for rank in range(world):
                assert equal([[values[rank::world] for values in whole]], [read[rank][number]])


def test_the_order_depends_on_the_seed_and_the_epoch_alone(shards: Path):
    def order(seed: int, epoch: int) -> list[Any]:
        loader = load(settings(shards), seed=0).train if seed == 0 else load(settings(shards), seed=seed).train
        loader.set_epoch(epoch)
        return shown(loader)

    assert order(0, 1) == order(0, 1) != order(0, 2)
    assert Counter(order(0, 1)) == Counter(order(0, 2))
    assert order(1, 1) != order(0, 1)


# Few shards at a time


def test_streams_by_hand():
    shard = np.repeat(np.arange(4), 3)  # twelve images in four shards
    order = InStreams(shard, streams=2)(np.arange(12), torch.Generator().manual_seed(0)).numpy()
    assert sorted(order) == list(range(12))
    first, second = shard[order[0::2]], shard[order[1::2]]
    for stream in (first, second):  # two whole shards each, one behind the other
        assert len(set(stream[:3])) == len(set(stream[3:])) == 1
    assert {*first}.isdisjoint({*second})
    # what no stream has room for comes last
    order = InStreams(shard, streams=5)(np.arange(12), torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(12))
    assert sorted(InStreams(shard, streams=100)(np.arange(12), torch.Generator())) == list(range(12))


def test_processes_have_shards_of_their_own():
    shard = np.repeat(np.arange(40), 25)
    order = shard[InStreams(shard, streams=8)(np.arange(1000), torch.Generator().manual_seed(3)).numpy()]
    for world in (2, 4, 8):
        touched = Counter(name for rank in range(world) for name in set(order[rank::world]))
        assert sum(times - 1 for times in touched.values()) <= 7  # only where one of eight streams ends in a shard
        assert all(len(set(order[rank::world][: 8 * 2])) <= 8 // world * 2 for rank in range(world))


# Going on in the middle of an epoch


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.5}])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_rest_of_an_epoch_is_had_without_reading_what_was_before(
    mixing: dict[str, float], workers: int, shards: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = batches(load(settings(shards, **mixing), seed=0).train)
    read: list[int] = []
    plain = ShardImages.read
    monkeypatch.setattr(ShardImages, "read", lambda self, number: read.append(number) or plain(self, number))
    loader = load(settings(shards, workers=workers, **mixing), seed=0).train
    for done in (0, 1, 5, 9):
        assert equal(list(every(loader, done)), whole[done:])
        assert not read if workers else len(read) == 2 * (9 - done)
        read.clear()
    assert equal(batches(loader), whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_goes_on_as_if_it_had_never_stopped(workers: int, shards: Path, tmp_path: Path):
    recipe = load_recipe(
        "digits",
        {
            "model.arguments": {"width": 2},
            "data.name": f"wds:{shards}/train-{{00000..00004}}.tar",
            "data.test_shards": f"{shards}/val-*.tar",
            "data.image_size": 8,
            "data.batch_size": 3,
            "data.validation": 0.25,
            "data.workers": workers,
            "schedule.epochs": 2,
            "evaluation.calibration_images": 8,
            "method.name": "stimulative",
        },
    )
    train(recipe, tmp_path / "whole", progress=False)
    for at in (4, 5):  # of six batches an epoch
        with pytest.raises(TrainingStopped):
            train(recipe, tmp_path / "run", resume=True, progress=False, callbacks=[Send({at: signal.SIGTERM})])
    train(recipe, tmp_path / "run", resume=True, progress=False)
    assert_equal(tmp_path / "whole", tmp_path / "run")


def test_a_training_does_not_go_on_with_other_shards(shards: Path, tmp_path: Path):
    before = load(settings(shards), seed=0).fingerprint
    assert before == load(settings(shards), seed=1).fingerprint
    (shards / "train-00004.tar").unlink()
    after = load(settings(shards), seed=0).fingerprint
    assert (before["test images"], before["training images"][:21]) == (after["test images"], "24 images in 5 shards")
    assert before["training images"] != after["training images"]


# Labels


@pytest.mark.parametrize(
    ("ending", "texts", "names"),
    [
        ("cls", ("0", " 1\n"), ("0", "1")),
        ("cls", ("pear", "apple"), ("apple", "pear")),
        ("json", ("0", "1"), ("0", "1")),
        ("json", ('"pear"', '"apple"'), ("apple", "pear")),
        ("json", ('{"label": 0, "width": 8}', '{"label": 1}'), ("0", "1")),
        ("json", ('{"cls": "b"}', '{"cls": "a"}'), ("a", "b")),
    ],
)
def test_labels_are_numbers_or_names(ending: str, texts: tuple[str, str], names: tuple[str, str], tmp_path: Path):
    for split in ("train", "val"):
        members = {}
        for number in range(8):
            members |= {f"dir.x/{number}.PNG": png(number), f"dir.x/{number}.{ending}": texts[number % 2]}
        write_tar(tmp_path / f"{split}-0.tar", members)
    data = load(settings(tmp_path), seed=0)
    assert data.class_names == names
    first = names.index(texts[0]) if texts[0] in names else (1 if names[0] in "apple" else 0)
    assert [label for _, label in shown(data.test)] == [first, 1 - first] * 4


def test_classes_have_the_names_that_stand_beside_the_shards(tmp_path: Path):
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}.tar", samples())
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert load(settings(tmp_path, "train.tar", "val.tar"), seed=0).class_names == ("cat", "dog")
    with pytest.raises(UsageError, match=r"data\.classes: .* have 2 classes, got 5; leave it out"):
        load(settings(tmp_path, "train.tar", "val.tar", classes=5), seed=0)
    for names, message in (("\n \n", "has no names of classes; write one"), ("cat\ndog\ncat\n", "names 'cat' twice")):
        (tmp_path / "classes.txt").write_text(names)
        with pytest.raises(UsageError, match=rf"data\.name: .*classes\.txt {message}"):
            load(settings(tmp_path, "train.tar", "val.tar"), seed=0)
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(UsageError, match="one class, 'cat'"):
        load(settings(tmp_path, "train.tar", "val.tar"), seed=0)


def test_what_is_no_image_and_no_label_is_passed_over_and_nothing_is_run_or_unpacked(tmp_path: Path):
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    extra = {
        "../../9.png": png(9),
        "../../9.pyd": pickle.dumps(Harm()),
        "../../9.cls": "1",
        "._0.png": b"of a Mac",
        "/etc/8.png": png(8),
        "/etc/8.txt": "a caption",
        "/etc/8.cls": "0",
        "about.txt": "of no image",
    }
    for split in ("train", "val"):
        write_tar(tmp_path / "in/shards" / f"{split}.tar", samples() | extra)
    data = load(settings(tmp_path / "in/shards", "train.tar", "val.tar"), seed=0)
    assert len(shown(data.test)) == 8
    assert data.left_out == {"hidden": 2}
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {file for file in files if not file.startswith("cache/")} == {"in/shards/train.tar", "in/shards/val.tar"}
    assert not (tmp_path / "harm").exists()


# What is in a shard is found out once


def test_a_shard_is_read_from_end_to_end_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    for name in ("train-0", "train-1", "val"):
        write_tar(tmp_path / f"{name}.tar", samples())
    read: list[str] = []
    plain = shard_lists.read_shard
    monkeypatch.setattr(shard_lists, "read_shard", lambda shard: read.append(Path(shard).name) or plain(shard))

    def opened() -> list[str]:
        read.clear()
        load(settings(tmp_path, test="val.tar"), seed=0)
        return [*read]

    assert opened() == ["train-0.tar", "train-1.tar", "val.tar"]
    assert "reading what is in 2 shards, once" in capsys.readouterr().err
    assert opened() == []
    write_tar(tmp_path / "train-1.tar", samples(8))
    assert opened() == ["train-1.tar"]
    for index in (cache / "shards").iterdir():
        index.write_bytes(b"damaged")
    assert len(opened()) == 3
    index_shards(f"{tmp_path}/train-{{0,1}}.tar")
    for index in (cache / "shards").iterdir():
        index.unlink()
    assert opened() == ["val.tar"]


def test_another_shard_of_the_same_size_is_read_anew_however_old_it_is(tmp_path: Path):
    shard, other = write_tar(tmp_path / "a.tar", samples()), write_tar(tmp_path / "b.tar", samples() | {"5.cls": "0"})
    os.utime(other, ns=(10**18, 10**18))
    assert other.stat().st_size == shard.stat().st_size
    for keep in (lambda: shard_lists.indexes_of([str(shard)]), lambda: index_shards(str(shard))):
        before = shard.read_bytes()
        keep()
        assert shard_lists.stored_index(str(shard)) is not None
        shutil.copy2(other, shard)
        assert shard_lists.indexes_of([str(shard)])[0].label.tolist() == [0, 1, 0, 1, 0, 0]
        shard.write_bytes(before)


def test_the_index_beside_a_shard_goes_with_copies_of_it(tmp_path: Path):
    shard = write_tar(tmp_path / "a.tar", samples())
    index_shards(str(shard))
    for place in (shard, Path(f"{shard}{shard_lists.INDEX}")):
        shutil.copy(place, tmp_path / place.name.replace("a.tar", "copy.tar"))
    copy = tmp_path / "copy.tar"
    os.utime(copy, ns=(10**18, 10**18))
    kept = shard_lists.stored_index(str(copy))
    assert kept is not None
    assert (kept.modified, kept.bytes) == (10**18, copy.stat().st_size)


def test_an_index_that_cannot_be_that_of_its_shard_is_made_anew(tmp_path: Path):
    shard = str(write_tar(tmp_path / "a.tar", samples()))
    right = read_shard(shard)
    for wrong in (
        {"size": right.size * 10_000},
        {"offset": right.offset - 10_000},
        {"label": right.label - 1},
        {"names": ("apple",)},
        {"names": ("apple", "\x1b[2J")},
        {"names": ("apple", "x" * 201)},
        {"left_out": {"\x1b[2J": 1}},
    ):
        shard_lists.write_index(shard_lists.ShardIndex(**{**vars(right), **wrong}), Path(shard + shard_lists.INDEX))
        assert shard_lists.stored_index(shard) is None
    shard_lists.write_index(right, Path(shard + shard_lists.INDEX))
    kept = shard_lists.stored_index(shard)
    assert kept is not None
    assert np.array_equal(kept.offset, right.offset)


def test_without_a_place_to_keep_it_an_index_is_made_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STIMULATIVE_DATA", str(tmp_path / "file"))
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}.tar", samples())
    assert load(settings(tmp_path, "train.tar", "val.tar"), seed=0).train.images == 4


# Patterns


def test_braces_and_wildcards_name_shards(tmp_path: Path):
    for name in ("a-008.tar", "a-009.tar", "a-010.tar", "b-8.tar"):
        (tmp_path / name).write_bytes(b"")

    def named(pattern: str) -> list[str]:
        assert pattern_problem(pattern) is None
        return [Path(path).name for path in find_shards(f"{tmp_path}/{pattern}", "data.name")]

    assert named("a-{008..010}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar"]
    assert named("{b-8,a-008}.tar") == ["b-8.tar", "a-008.tar"]
    assert named("a-*.tar") == ["a-008.tar", "a-009.tar", "a-010.tar"]
    assert named("{a-0*,b-[89]}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar", "b-8.tar"]
    assert named("[ab]-0{08..10}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar"]
    assert named("a-0{0..0}{8,9}.tar") == ["a-008.tar", "a-009.tar"]
    for pattern, message in (
        ("{0..0}" * 1_500, "a name has 255 bytes at most"),
        ("a-{008..012}.tar", "data.name: 2 of the 5 shards are not there, such as .*a-011.tar"),
        ("c-*.tar", "data.name: there is no shard .*/c-"),
        ("a-{008,008,0*}.tar", "names 1 shards twice, such as .*a-008.tar"),
    ):
        with pytest.raises(UsageError, match=message):
            named(pattern)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "wds:"}, "data.name: 'wds:' needs the shards to train on, as in wds:imagenet/train-{000..146}.tar"),
        ({"test_shards": None}, "data.test_shards: wds:x.tar needs the shards to test on, too"),
        ({"name": "wds:pipe:cat x.tar"}, "data.name: shards are read from files of this machine, and never by a com"),
        ({"test_shards": "s3://x/y.tar"}, "data.test_shards: shards are read from files of this machine"),
        ({"name": "wds:{0..3.tar"}, "data.name: braces have to be closed"),
        ({"name": "wds:{x}.tar"}, "data.name: braces hold a range or words, as in {000..146} or {a,b}, got {x}"),
        ({"name": "wds:{5..2}.tar"}, "data.name: a range of shards goes up, got {5..2}"),
        ({"name": "wds:{0..99999999}.tar"}, "names 100,000,000 shards; there may be 100,000"),
        ({"name": "wds:a.tar::b.tar"}, "data.name: one pattern names all shards"),
        ({"streams": 0}, "data.streams: expected a whole number of at least 1, got 0"),
        ({"train_images": 0}, "data.train_images: expected a whole number of at least 1, got 0"),
        ({"images": 8}, "data.images: only fake makes as many images as it is told, got 8 for 'wds:x.tar'"),
        ({"name": "folder:x"}, "data.test_shards: only wds:PATTERN has shards to test on, got 'y.tar' for 'folder:x'"),
        ({"name": "wds:{a,{b,c}}.tar"}, "data.name: braces have to be closed, and hold no others"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, Any], message: str):
    problems = DataSettings(**{"name": "wds:x.tar", "test_shards": "y.tar", **options}).problems()
    assert any(message in problem for problem in problems), problems


# Shards that cannot be used


def without(members: dict[str, bytes | str], *names: str) -> dict[str, bytes | str]:
    return {name: content for name, content in members.items() if name not in names}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, r"train\.tar holds no images; expected members such as 0001\.jpg and 0001\.cls"),
        (
            without(samples(), "3.cls"),
            r"train\.tar cannot be read as a shard: sample '3' has no label; expected 3\.cls",
        ),
        (without(samples(), "3.png"), r"a sample is one image and its label, and '3' has for images: none"),
        (samples() | {"5.jpg": b"x"}, r"'5' has for images: 5\.png, 5\.jpg"),
        (samples() | {"6.png": b"", "6.cls": "0"}, r"6\.png has 0 bytes"),
        (samples() | {"5.cls": "-1"}, r"5\.cls is no label: got '-1'; expected the number of a class, from 0, or its"),
        (samples() | {"5.cls": ""}, r"5\.cls is no label: got ''"),
        (samples() | {"5.cls": "\x1b[2J"}, r"5\.cls is no label: got '\\x1b\[2J'"),
        (samples() | {"5.cls": "x" * 2**21}, r"5\.cls has 2,097,152 bytes, and a label may have 1,048,576"),
        (without(samples(), "5.cls") | {"5.json": "{}"}, r"5\.json is no label: got '\{\}'"),
        (without(samples(), "5.cls") | {"5.json": "[" * 10_000}, r"5\.json is no label"),
        (without(samples(), "5.cls") | {"5.json": "true"}, r"5\.json is no label: got 'true'"),
        (samples() | {"5.cls": "pear"}, r"some of its labels are numbers, and some are names"),
        (samples() | {"5.cls": "3"}, r"no image has label 2, though labels go up to 3; they are counted from 0"),
        (samples() | {"5.cls": "999999999"}, r"no image has label 2, though labels go up to 999999999"),
    ],
)
def test_a_shard_that_cannot_be_used_is_explained(members: dict[str, bytes | str], message: str, tmp_path: Path):
    write_tar(tmp_path / "train.tar", members)
    write_tar(tmp_path / "val.tar", samples())
    with pytest.raises(UsageError, match=message) as error:
        load(settings(tmp_path, "train.tar", "val.tar"), seed=0)
    assert "\x1b" not in str(error.value)


def test_a_shard_that_is_cut_off_anywhere_is_noticed(tmp_path: Path):
    whole = write_tar(tmp_path / "whole.tar", samples(2)).read_bytes()
    end = len(whole.rstrip(b"\0"))
    shard = tmp_path / "cut.tar"
    for size in range(100, end, 300):
        shard.write_bytes(whole[:size])
        with pytest.raises(UsageError, match=r"cut\.tar cannot be read as a shard"):
            read_shard(str(shard))
    for content, message in (
        (whole[: 4 * 1024], "it is cut off: the mark at its end is missing"),
        (whole + whole, "or several archives were put into one file"),
        (whole[:1024] + b"x" * 512 + whole[1536:], "it is damaged at byte 1,024"),
        (b"", "empty file"),
    ):
        shard.write_bytes(content)
        with pytest.raises(UsageError, match=message):
            read_shard(str(shard))
    (tmp_path / "packed.tar.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(UsageError, match=r"as a shard \(a compressed one has to be unpacked\)"):
        read_shard(str(tmp_path / "packed.tar.gz"))


def header(kind: bytes, size: int) -> bytes:
    """A header block of a tar file that declares so many bytes."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        *((header(kind, 2**50), r"has 1,125,899,906,842,624 bytes, and may have 1,048,576") for kind in (b"x", b"g")),
        *((header(kind, 2**50), r"has 1,125,899,906,842,624 bytes, and may have 1,048,576") for kind in (b"L", b"K")),
        (header(b"L", -1024), r"has -1,024 bytes, and may have"),
        (header(b"0", -512), r"has -512 bytes; the shard is damaged"),
        (header(b"5", -512), r"has -512 bytes; the shard is damaged"),
        ((header(b"L", 2) + b"a\0".ljust(512, b"\0")) * 3_000, "maximum recursion depth"),
    ],
)
def test_damaged_headers_take_no_memory_and_no_end(headers: bytes, message: str, tmp_path: Path):
    shard = write_tar(tmp_path / "a.tar", samples(2))
    shard.write_bytes(headers + shard.read_bytes())
    with pytest.raises(UsageError, match=r"a\.tar cannot be read as a shard: .*" + message):
        read_shard(str(shard))


def test_members_with_long_names_are_read(tmp_path: Path):
    names = {f"{'deep/' * 100}{name}": content for name, content in samples(2).items()}
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
            for name, content in names.items():
                data = content.encode() if isinstance(content, str) else content
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        assert len(read_shard(str(tmp_path / "a.tar")).offset) == 2


def test_links_and_devices_in_a_shard_are_refused(tmp_path: Path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            member = tarfile.TarInfo("0.png")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        with pytest.raises(UsageError, match=r"0\.png is a link, a device or a sparse file"):
            read_shard(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named_with_its_shard(workers: int, tmp_path: Path):
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}.tar", samples() | {"deep/4.png": b"no image", "deep/4.cls": "0"})
    data = load(settings(tmp_path, "train.tar", "val.tar", workers=workers), seed=0)
    named = r"val\.tar: deep/4\.png cannot be read as an image \(it is of no format that Pillow knows\); replace"
    with pytest.raises(UsageError, match=named):
        batches(data.test)
    write_tar(tmp_path / "val.tar", samples())
    data = load(settings(tmp_path, "train.tar", "val.tar", workers=workers), seed=0)
    rest = iter(data.test)
    next(rest)
    os.truncate(tmp_path / "val.tar", 700)
    if not workers:  # one has read everything by now
        with pytest.raises(UsageError, match=r"cannot be read as an image \(the shard ends [\d,]+ bytes too early\)"):
            next(rest)


@pytest.mark.parametrize("workers", [0, 1])
def test_shards_that_change_after_they_were_listed_are_not_read(workers: int, tmp_path: Path):
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}.tar", samples())
    data = load(settings(tmp_path, "train.tar", "val.tar", workers=workers), seed=0)
    size = (tmp_path / "val.tar").stat().st_size
    write_tar(tmp_path / "val.tar", samples() | {"5.cls": "0"})
    assert (tmp_path / "val.tar").stat().st_size == size
    with pytest.raises(
        UsageError, match=r"val\.tar: 0\.png .* \(the shard was changed after its images had been listed"
    ):
        batches(data.test)


def test_images_go_to_processes_that_start_anew(shards: Path):
    names = tuple(sorted(str(file) for file in shards.glob("train-*.tar")))
    images = ShardImages.of(names, shard_lists.indexes_of(names), CLASSES)
    first = images.read(7).tobytes()
    assert pickle.loads(pickle.dumps(images)).read(7).tobytes() == first


def test_test_shards_are_others_and_of_the_same_classes_and_as_many_as_was_said(tmp_path: Path):
    write_tar(tmp_path / "train.tar", samples())
    (tmp_path / "val.tar").symlink_to(tmp_path / "train.tar")
    with pytest.raises(UsageError, match=r"data\.test_shards: 1 of the 1 shards to test on are trained on, too"):
        load(settings(tmp_path, "train.tar", "val.tar"), seed=0)
    (tmp_path / "val.tar").unlink()
    with pytest.raises(UsageError, match=r"data\.test_shards: 1 of the 1 shards are not there, such as .*val\.tar"):
        load(settings(tmp_path, "train.tar", "val.tar"), seed=0)
    write_tar(tmp_path / "val.tar", samples() | {"5.cls": "2"})
    with pytest.raises(UsageError, match=r"val\.tar: label 2 is none of the 2 classes, 0 to 1"):
        load(settings(tmp_path, "train.tar", "val.tar"), seed=0)
    write_tar(tmp_path / "val.tar", {"0.png": png(), "0.cls": "pear"})
    with pytest.raises(UsageError, match="labels are numbers in some shards, and names in others; write the names"):
        load(settings(tmp_path, "train.tar", "val.tar"), seed=0)
    (tmp_path / "classes.txt").write_text("apple\npear\n")
    assert shown(load(settings(tmp_path, "train.tar", "val.tar"), seed=0).test)[0][1] == 1
    (tmp_path / "classes.txt").write_text("apple\nplum\n")
    with pytest.raises(UsageError, match=r"val\.tar: label 'pear' is none of the 2 classes, such as 'apple'"):
        load(settings(tmp_path, "train.tar", "val.tar"), seed=0)
    (tmp_path / "classes.txt").unlink()
    write_tar(tmp_path / "val.tar", samples())
    with pytest.raises(
        UsageError, match=r"data\.train_images: the 1 shards .*train\.tar hold 6 images, got 1,281,167; leave"
    ):
        load(settings(tmp_path, "train.tar", "val.tar", train_images=1_281_167), seed=0)


def test_json_of_a_sample_counts_only_without_a_cls(tmp_path: Path):
    members = samples() | {"5.json": json.dumps({"label": 7})}
    assert read_shard(str(write_tar(tmp_path / "a.tar", members))).label.tolist() == [0, 1, 0, 1, 0, 1]
