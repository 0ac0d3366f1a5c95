from dataclasses import replace

import pytest

from camseg.base.errors import DatasetError, InputError, OutputError
from camseg.data.images import write_image
from camseg.train.parts import load_parts
from camseg.train.plan import plan_training, prepare_training, try_training

TINY = {"model": "test_resnet", "weights": "none", "image_size": 32}
SHARES = {"val": None, "val_fraction": 0.25, "test_fraction": 0.0, "seed": 0}


@pytest.fixture
def divided(make_folder, tmp_path):
    """train/, valid/ and Test/ with class folders, 6, 2 and 2 images of each class, no two of them equal."""
    whole = make_folder(count=10)
    for part, numbers in {"train": range(6), "valid": range(6, 8), "Test": range(8, 10)}.items():
        for label in ("blue", "red"):
            (tmp_path / "set" / part / label).mkdir(parents=True)
            for i in numbers:
                (whole / label / f"{i:02}.png").rename(tmp_path / "set" / part / label / f"{i}.png")
    return tmp_path / "set"


def test_a_set_that_comes_divided_stays_so(divided):
    train, val, test = load_parts(divided, **{**SHARES, "test_fraction": 0.4})
    assert [len(part.samples) for part in (train, val, test)] == [12, 4, 4]
    assert {sample.name.split("/")[0] for sample in val.samples} == {"valid"}
    assert train.remarks == (
        f"{divided} comes divided, and stays so: 4 in Test (test), 12 in train (train), 4 in valid (val)",
    )
    with pytest.raises(DatasetError, match="comes with validation images of its own"):
        load_parts(divided, **{**SHARES, "val": divided / "Test"})
    for image in (divided / "valid").rglob("*.png"):
        image.unlink()
    train, val, test = load_parts(divided, **SHARES)
    assert [len(part.samples) for part in (train, val, test)] == [9, 3, 4]
    assert {sample.part for sample in val.samples} == {"train"}


def test_a_set_that_comes_divided_without_all_classes_to_learn_is_split_anew(divided):
    for image in (divided / "train/red").iterdir():
        image.unlink()
    train, val, test = load_parts(divided, **SHARES)
    assert test is None
    assert len(train.samples) + len(val.samples) == 14
    assert "not of every class" in train.remarks[0]


def test_validation_images_are_checked_with_the_plan(divided, tmp_path):
    data, val = divided / "train", divided / "valid"
    (val / "red").rename(val / "RED ")
    train, held, _ = load_parts(data, **{**SHARES, "val": val})
    assert {sample.labels for sample in held.samples} == {("blue",), ("red",)}
    assert train.remarks == ("2 images labelled 'RED' counted as 'red'",)
    (tmp_path / "val.csv").write_text("image,label\nset/valid/blue/6.png,blue\nset/valid/blue/7.png,\n")
    with pytest.raises(DatasetError, match="expected one label, as the classes exclude each other; got none"):
        load_parts(data, **{**SHARES, "val": tmp_path / "val.csv"})


def test_an_empty_label_beside_a_negative_class(make_folder, tmp_path):
    data = make_folder(count=8)
    rows = [f"{label}/{i:02}.png,{label}" for label in ("blue", "red") for i in range(8)]
    rows[3] = "blue/03.png,"
    (data / "d.csv").write_text("\n".join(["image,label", *rows]))
    training = plan_training(data / "d.csv", changes=TINY)
    (line, *_) = prepare_training(training, tmp_path / "out").remarks()
    assert line.startswith("the set counts as multi-label: 1 of 16 images has no label")
    with pytest.raises(
        DatasetError, match=r"1 of 16 images have no label, the first is .*03\.png, and 'blue' stands for"
    ):
        prepare_training(replace(training, negative=("blue",)), tmp_path / "out")
    rows[4] = "blue/04.png,blue;red"
    (data / "d.csv").write_text("\n".join(["image,label", *rows]))
    assert prepare_training(replace(training, negative=("blue",)), tmp_path / "out").classifier.multi_label


def test_what_a_plan_says_of_its_images(make_folder, tmp_path):
    data = make_folder()
    (data / "blue").rename(data / "no_defect")
    training = plan_training(data, changes=TINY)
    prepared = prepare_training(training, tmp_path / "out")
    (hint,) = prepared.remarks()
    assert "'no_defect' looks like images without an object; --negative no_defect" in hint
    assert prepare_training(replace(training, negative=("no_defect",)), tmp_path / "out").remarks() == []
    with pytest.raises(InputError, match="the negative class 'clean' is not one of no_defect, red"):
        prepare_training(replace(training, negative=("clean",)), tmp_path / "out")
    out = tmp_path / "out"
    assert try_training(prepared, out, device="cpu") == {}
    assert not out.exists()
    prepared.train.samples[0].path.unlink()
    assert list(try_training(prepared, out, device="cpu")) == [prepared.train.samples[0].path]
    for sample in prepared.val.samples:
        sample.path.write_text("")
    with pytest.raises(DatasetError, match=r"none of 5 images can be read; the first: .*the file is empty"):
        try_training(prepared, out, device="cpu")
    write_image(prepared.val.samples[0].path, prepared.classifier.preprocessing.read(prepared.train.samples[1].path))
    assert len(try_training(prepared, out, device="cpu")) == 5
    with pytest.raises(InputError, match="device"):
        try_training(prepared, out, device="tpu")
    for place, words in (("file", "a file, no folder"), ("run", "holds a finished run")):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run/metrics.json").touch()
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match=words):
            try_training(prepared, tmp_path / place, device="cpu")
