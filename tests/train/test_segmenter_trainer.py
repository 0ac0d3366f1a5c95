import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import camseg
from camseg.base.errors import CheckpointError, DatasetError, InputError, OutputError
from camseg.data.images import read_mask, write_image, write_mask
from camseg.data.settings import NONE
from camseg.train import segmenter_learner
from camseg.train.recipes import SEGMENTER_RECIPES
from camseg.train.segmenter_learner import pixel_weights
from camseg.train.segmenter_plan import (
    plan_segmenter_training,
    prepare_segmenter_training,
    run_segmenter_training,
    try_segmenter_training,
)

FILES = {"model.safetensors", "segmenter.json", "metrics.json", "history.csv", "curves.png", "reliability.png"}
SMALL = {"model": "linknet+test_resnet", "weights": "none", "image_size": 32, "negative": ("blank",)}
FAST = {**SMALL, "epochs": 3, "batch_size": 4, "learning_rate": 3e-3}


class Interrupt(Exception):
    """Stands for a kill."""


def plan(masked, **changes):
    images, masks = masked
    return plan_segmenter_training(images, changes={"masks": masks, **FAST, **changes})


def train(masked, out, run_with=None, **changes):
    prepared = prepare_segmenter_training(plan(masked, **changes), out)
    return run_segmenter_training(prepared, out, device="cpu", **(run_with or {}))


@pytest.fixture(scope="module")
def whole_run(masked_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    return run, train(masked_folder, run, epochs=10, learning_rate=1e-2, averaging=0.8, test_fraction=0.2)


def test_a_run_learns_and_writes_its_files(whole_run, masked_folder):
    run, metrics = whole_run
    assert {path.name for path in run.iterdir()} == FILES
    assert json.loads((run / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert metrics["mean_dice_per_image"] > 0.7
    assert (metrics["train_images"], metrics["val_images"]) == (9, 3)
    assert (
        metrics["classes"]["object"]["images"] + metrics["classes"]["object"]["empty_images"] == metrics["val_images"]
    )
    assert metrics["test"]["images"] == 4
    assert metrics["failed"] == {}
    with (run / "history.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    names = ["epoch", "learning_rate", "train_loss", "val_loss", "val_dice", "val_iou", "val_dice_over_pixels"]
    assert list(rows[0]) == names
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert max(rows, key=lambda row: (row["val_dice"], -row["val_loss"]))["epoch"] == metrics["best_epoch"]
    segmenter = camseg.load_segmenter(run)
    assert segmenter.temperature == metrics["temperature"]
    assert (segmenter.classes, segmenter.negative) == (("object",), ("blank",))
    images, masks = masked_folder
    found = segmenter.predict(camseg.read_image(images / "shape/00.png"))[0] > 0.5
    true = read_mask(masks / "shape/00.png")
    assert (found & true).sum() / (found | true).sum() > 0.6


def test_an_interrupted_training_ends_as_an_uninterrupted_one(masked_folder, tmp_path):
    student = {"consistency": 1.0, "crf": 0.1, "correct_after": 0.9}
    settings = {"student": student, "patience": 0}
    wanted = train(masked_folder, tmp_path / "whole", **settings)

    def progress(items, _total, title):
        for number, item in enumerate(items):
            if title == "epoch 2/3" and number == 1:
                raise Interrupt
            yield item

    run = tmp_path / "run"
    with pytest.raises(Interrupt):
        train(masked_folder, run, {"progress": progress}, **settings)
    assert (run / "training.safetensors").exists()
    with pytest.raises(OutputError, match="holds an unfinished run with other data or settings"):
        train(masked_folder, run, **{**settings, "learning_rate": 1e-4})
    lines = []
    assert train(masked_folder, run, {"say": lines.append}, **settings) == wanted
    assert lines[0] == f"continuing {run} after epoch 1"
    assert {path.name for path in run.iterdir()} == FILES
    for file in FILES:
        assert (run / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    with pytest.raises(OutputError, match="holds a finished run"):
        train(masked_folder, run)


@pytest.mark.slow
def test_other_masks_are_another_training(masked_folder, tmp_path):
    images, masks = masked_folder
    copied = tmp_path / "masks"
    for path in sorted(masks.rglob("*.png")):
        write_mask(copied / path.relative_to(masks), read_mask(path))

    def say(line):
        if line.startswith("epoch 2/"):
            raise Interrupt

    with pytest.raises(Interrupt):
        train((images, copied), tmp_path / "run", {"say": say}, epochs=2)
    write_mask(copied / "shape/00.png", np.zeros((32, 32), bool))
    with pytest.raises(OutputError, match="holds an unfinished run with other data"):
        train((images, copied), tmp_path / "run", epochs=2)


@pytest.mark.parametrize("balance", ["weights", pytest.param("sampling", marks=pytest.mark.slow)])
def test_exclusive_classes_from_class_numbers(masked_folder, tmp_path, balance):
    images, masks = masked_folder
    for number, path in enumerate(sorted(masks.rglob("*.png"))):
        numbers = np.where(read_mask(path), np.uint8(1 + number % 2), np.uint8(0))
        numbers[0] = 255
        write_image(tmp_path / "masks" / path.relative_to(masks), numbers)
    names = {"even": 1, "odd": 2}
    metrics = train((images, tmp_path / "masks"), tmp_path / "run", mask_classes=names, balance=balance)
    assert list(metrics["classes"]) == ["even", "odd"]
    assert metrics["categorical_cross_entropy_over_pixels"] > 0
    segmenter = camseg.load_segmenter(tmp_path / "run")
    assert (segmenter.classes, segmenter.multi_label) == (("even", "odd"), False)
    assert segmenter.training["mask_classes"] == names


def test_pixels_of_rare_classes_weigh_more():
    class Shown:
        shown = np.array([[10, 1], [10, 0]])
        known = np.array([20, 20])

    assert pixel_weights(Shown, True).tolist() == [1.0, 10.0]  # 39 within the bound
    assert pixel_weights(Shown, False) == pytest.approx([40 / (3 * 19), 40 / (3 * 20), 10.0])


def test_masks_that_do_not_fit_are_left_out(masked_folder, tmp_path, call):
    images, masks = masked_folder
    for path in sorted(masks.rglob("*.png")):
        write_mask(tmp_path / "masks" / path.relative_to(masks), read_mask(path))
    write_mask(tmp_path / "masks/shape/00.png", np.zeros((9, 7), bool))
    write_image(tmp_path / "masks/shape/01.png", np.arange(32 * 32).reshape(32, 32).astype(np.uint8))
    (tmp_path / "masks/shape/02.png").unlink()
    options = ["--masks", tmp_path / "masks", "--model", "linknet+test_resnet", "--weights", "none", "--epochs", 1]
    options += ["--image-size", 32, "--negative", "blank", "-o", tmp_path / "run", "--device", "cpu", "--batch-size", 4]
    code, out, err = call("train-seg", images, *options)
    assert code == 1
    assert "1 of 16 images of" in err
    assert "have no mask in" in err
    assert "failed: " in err
    assert "expected a mask of its image's size, 32x32; it has 7x9" in " ".join(err.split())
    assert "validation Dice per image" in out
    failed = json.loads((tmp_path / "run/metrics.json").read_text())["failed"]
    assert [path.rpartition("/")[2] for path in sorted(failed)] == ["00.png", "01.png"]


def test_a_command_trains_and_repeats(masked_folder, tmp_path, call):
    images, masks = masked_folder
    options = ["--masks", masks, "--model", "linknet+test_resnet", "--weights", "none", "--image-size", 32]
    options += ["--negative", "blank", "--batch-size", 4, "--device", "cpu", "--loss", "jaccard+focal", "--no-augment"]
    code, out, _ = call("train-seg", images, *options, "--epochs", 1, "-o", tmp_path / "a", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["training"]["loss"] == "jaccard+focal"
    assert found["epochs"] == 1
    code, _, err = call("train-seg", "--like", tmp_path / "a", "-o", tmp_path / "b", "--device", "cpu")
    assert code == 0, err
    first, second = (camseg.load_segmenter(tmp_path / name) for name in "ab")
    assert first.fingerprint() == second.fingerprint()
    code, out, _ = call("train-seg", images, *options, "-o", tmp_path / "c", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["training"]["settings"]["augmentation"]["rotation"] == 0
    assert not (tmp_path / "c").exists()


def test_recipes_are_the_papers(masked_folder):
    images, masks = masked_folder
    sarmah = plan_segmenter_training(images, recipe="sarmah", changes={"masks": masks, "model": "unet"})
    assert (sarmah.image_size, sarmah.val_fraction, sarmah.test_fraction) == (128, 0.2, 0.1)
    how = sarmah.settings
    assert (how.optimizer, how.learning_rate, how.batch_size, how.augmentation) == ("adam", 1e-3, 16, NONE)
    assert how.patience > 0
    med_ic = plan_segmenter_training(images, recipe="med-ic-seg", changes={"masks": masks, "model": "unet"})
    how = med_ic.settings
    assert (med_ic.image_size, how.epochs, how.batch_size, how.learning_rate) == (128, 100, 8, 1e-5)
    assert med_ic.weights == "none"
    assert set(SEGMENTER_RECIPES) == {"default", "sarmah", "med-ic-seg"}


def test_what_a_training_lacks(masked_folder, tmp_path):
    images, masks = masked_folder
    with pytest.raises(InputError, match="expected masks to learn from; name their folder with --masks"):
        plan_segmenter_training(images)
    with pytest.raises(InputError, match="a training has no 'size'"):
        plan(masked_folder, size=3)
    with pytest.raises(CheckpointError, match=r"segmenter\.json: cannot be read"):
        plan_segmenter_training(like=tmp_path)
    with pytest.raises(DatasetError, match="holds no mask of the images"):
        prepare_segmenter_training(plan((masks, images / "blank")), tmp_path)
    with pytest.raises(InputError, match="inputs lie in the output folder"):
        prepare_segmenter_training(plan(masked_folder), images)
    with pytest.raises(InputError, match="--val-masks are of the images of --val"):
        plan(masked_folder, val_masks=masks)
    headless = prepare_segmenter_training(plan(masked_folder, model="unet-bn", trainable="head"), tmp_path / "run")
    with pytest.raises(InputError, match="no head apart from its backbone"):
        try_segmenter_training(headless, tmp_path / "run")


def test_masks_of_the_validation_images_may_lie_elsewhere(masked_folder, tmp_path):
    images, masks = masked_folder
    for path in sorted(masks.rglob("*.png"))[:3]:
        write_mask(tmp_path / "masks" / path.name, read_mask(path))
        write_image(tmp_path / "images" / path.name, 255 - camseg.read_image(images / path.relative_to(masks)))
    changes = {"val": tmp_path / "images", "val_masks": tmp_path / "masks", "object_name": "spot"}
    prepared = prepare_segmenter_training(plan(masked_folder, **changes), tmp_path / "run")
    assert len(prepared.val.data.samples) == 3
    assert prepared.val.masks.classes == prepared.train.masks.classes == ("spot",)


def test_the_decoder_warms_up_alone(masked_folder, tmp_path):
    prepared = prepare_segmenter_training(plan(masked_folder, epochs=1, trainable="head"), tmp_path / "run")
    before = {name: value.clone() for name, value in prepared.segmenter.model.state_dict().items()}
    run_segmenter_training(prepared, tmp_path / "run", device="cpu")
    state = camseg.load_segmenter(tmp_path / "run").model.state_dict()
    changed = {name.split(".")[1] for name, value in state.items() if not torch.equal(value, before[name])}
    assert changed == {"decoder", "segmentation_head"}


def test_a_student_learns_from_a_labelled_folder(masked_folder, whole_run, tmp_path):
    images, _ = masked_folder
    teacher = camseg.load_segmenter(whole_run[0])
    camseg.segment_folder(images, teacher, tmp_path / "taught", camseg.SegmentSettings(save=("cams",)))
    student = {"trusted_epochs": 1, "trusted_share": 0.5, "consistency": 0.5}
    titles = []

    def progress(items, total, title):
        titles.append((title, total))
        return iter(items)

    prepared = prepare_segmenter_training(plan((images, tmp_path / "taught"), student=student), tmp_path / "run")
    assert prepared.segmenter.negative == ("blank",)
    metrics = run_segmenter_training(prepared, tmp_path / "run", device="cpu", progress=progress)
    steps = dict(titles)
    assert steps["epoch 1/3"] < steps["epoch 2/3"] == 3
    assert metrics["training"]["student"]["trusted_epochs"] == 1
    assert metrics["train_images"] == 12
    with pytest.raises(InputError, match="leave out --mask-class"):
        prepare_segmenter_training(plan((images, tmp_path / "taught"), mask_class="1"), tmp_path / "other")
    assert replace(prepared.training, weights_sha256=None) == prepared.training


def test_masks_are_corrected_once_the_fit_to_them_bends(masked_folder, whole_run, tmp_path, monkeypatch):
    images, _ = masked_folder
    teacher = camseg.load_segmenter(whole_run[0])
    camseg.segment_folder(images, teacher, tmp_path / "taught", camseg.SegmentSettings(save=("cams",)))
    epochs, seen = [], []
    original = segmenter_learner.corrected

    def spy(targets, logits, certain, classes, above, multi_label):
        found = original(targets, logits, certain, classes, above, multi_label)
        seen.append((epochs[-1], certain.clone(), (found != targets).any(dim=(1, 2)), list(classes)))
        return found

    def progress(items, _total, title):
        if title.startswith("epoch"):
            epochs.append(int(title.split("/")[0].removeprefix("epoch ")))
        return iter(items)

    monkeypatch.setattr(segmenter_learner, "corrected", spy)
    monkeypatch.setattr(segmenter_learner, "bent", lambda fits, fall: 2 if len(fits) >= 2 and fall == 0.9 else None)
    student = {"correct_after": 0.9, "correct_above": 0.5, "teach": "masks"}
    train((images, tmp_path / "taught"), tmp_path / "run", {"progress": progress}, student=student, patience=0)
    assert {epoch for epoch, *_ in seen} == {3}
    assert all(classes == [True] for *_, classes in seen)
    changed, certain = torch.cat([one for _, _, one, _ in seen]), torch.cat([one for _, one, *_ in seen])
    assert changed[~certain].any()
    assert not changed[certain].any()  # labels stay what they are
    with (tmp_path / "run/history.csv").open(newline="") as file:
        fits = [float(row["train_iou_object"]) for row in csv.DictReader(file)]
    assert len(fits) == 3
    assert all(0 < fit <= 1 for fit in fits)


def test_groups_stay_on_one_side_of_a_split(masked_folder, tmp_path):
    images, masks = masked_folder
    rows = ["image,label,group"]
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.relative_to(images)).write_bytes(path.read_bytes())
        rows.append(f"{path.relative_to(images).as_posix()},{path.parent.name},patient{number // 2 % 4}")
    (tmp_path / "images.csv").write_text("\n".join(rows))
    settings = {"val_fraction": 0.25, "test_fraction": 0.25}
    prepared = prepare_segmenter_training(plan((tmp_path / "images.csv", masks), **settings), tmp_path / "run")
    parts = [prepared.train, prepared.val, prepared.test]
    groups = [{sample.group for sample in part.data.samples} for part in parts]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 4
    assert sum(len(part.data.samples) for part in parts) == 16


def test_a_channel_for_each_label(masked_folder, tmp_path):
    images, masks = masked_folder
    for place, root in (("images", images), ("masks", masks)):
        for number, path in enumerate(sorted((root / "shape").glob("*.png"))):
            target = tmp_path / place / ("square", "box")[number % 2] / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    joined = prepare_segmenter_training(plan((tmp_path / "images", tmp_path / "masks"), negative=()), tmp_path / "run")
    assert "masks of box, square are learned as one class, object; --per-class tells them apart" in joined.remarks
    metrics = train((tmp_path / "images", tmp_path / "masks"), tmp_path / "run", per_class=True, negative=(), epochs=1)
    assert list(metrics["classes"]) == ["box", "square"]
    assert json.loads((tmp_path / "run/segmenter.json").read_text())["training"]["per_class"] is True
    teacher = camseg.load_segmenter(tmp_path / "run")
    assert (teacher.classes, teacher.multi_label) == (("box", "square"), True)
    # What it makes lies in a folder for each class, from which a student needs no labels to tell them apart.
    camseg.segment_folder(tmp_path / "images", teacher, tmp_path / "taught", camseg.SegmentSettings(save=("cams",)))
    with pytest.raises(DatasetError, match="holds masks of box, square already"):
        prepare_segmenter_training(plan((tmp_path / "images", tmp_path / "taught"), per_class=True), tmp_path / "a")
    assert prepare_segmenter_training(
        plan((tmp_path / "images", tmp_path / "taught"), negative=()), tmp_path / "a"
    ).segmenter.classes == ("box", "square")
