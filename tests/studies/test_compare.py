"""The comparison of tiny models on tiny images: each number from its files, nothing made twice, rubbish refused."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as PilImage
from sklearn.metrics import f1_score
from typer.testing import CliRunner

from camseg.base.errors import CheckpointError, DatasetError, EvaluationError, InputError, LayerError, OutputError
from camseg.cams.compute import compute_cams
from camseg.cams.predict import predict
from camseg.cams.settings import CamSettings
from camseg.classify.checkpoint import load_classifier
from camseg.classify.ensemble import Ensemble
from camseg.cli import app
from camseg.data.datasets import load_training_data
from camseg.data.images import read_image, read_mask, write_image, write_mask
from camseg.data.splits import split
from camseg.measure.faithfulness import confidence_drop, confidences, filter_image
from camseg.measure.figures import plot_heat_map
from camseg.measure.metrics import bootstrap_interval, dice, mask_counts, mean_dice
from camseg.studies import compare
from camseg.studies.compare import compare_models
from camseg.studies.judging import Judge
from camseg.studies.settings import CompareSettings

METHODS = CamSettings(methods=("layercam", "eigencam"))
QUICK = {"weights": "none", "epochs": 1, "image_size": 32, "batch_size": 8, "val_fraction": 0.25}
TESTED = CompareSettings(test_fraction=0.3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten images with a bright square and ten without, each with its mask; half as many for a test apart."""
    root, random = tmp_path_factory.mktemp("compare"), np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 5)):
        lines = ["image,label,group"]
        for index in range(count):
            for label in ("clean", "scratch"):
                mask = np.zeros((32, 32), bool)
                image = random.integers(60, 120, (32, 32, 3)).astype(np.uint8)
                if label == "scratch":
                    top, left = random.integers(0, 20, 2)
                    mask[top : top + 12, left : left + 12] = True
                    image[mask] = (220, 200, 40)
                write_mask(root / f"masks/{part}/{label}/{index}.png", mask)
                write_image(root / f"images/{part}/{label}/{index}.png", image)
                lines.append(f"{label}/{index}.png,{label},{index // 2}")
        (root / f"images/{part}/groups.csv").write_text("\n".join(lines))
    return root


@pytest.fixture
def make_run(make_classifier, tmp_path):
    def make(name="run", seed=0, classes=("clean", "scratch"), **settings):
        classifier = make_classifier(seed=seed, classes=classes, image_size=32, **settings)
        classifier.save(tmp_path / name)
        return str(tmp_path / name)

    return make


@pytest.fixture
def quick(data, tmp_path):
    def call(*models, out="out", cams=METHODS, overwrite=False, **changes):
        return compare_models(
            models,
            data / "images/train",
            tmp_path / out,
            masks=data / "masks/train",
            settings=replace(TESTED, cams=cams),
            changes={**QUICK, **changes},
            overwrite=overwrite,
        )

    return call


def but_seconds(found):
    cells = [{key: value for key, value in cell.items() if key != "seconds"} for cell in found["cells"]]
    return {**found, "cells": cells}


def test_from_start_to_end(data, tmp_path):
    out = tmp_path / "out"
    files = ["compare", str(data / "images/train"), "--models", "test_resnet,test_vit", "--out", str(out)]
    files += ["--masks", str(data / "masks/train"), "--test", str(data / "images/test"), "--device", "cpu"]
    files += ["--test-masks", str(data / "masks/test")]
    call = [*files, "--methods", "gradcam, layercam", "--weights", "none", "--image-size", "32", "--epochs", "1"]
    call += ["--val-fraction", "0.3", "--negative", "clean", "--window", "percentile"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    assert result.output.count("test_resnet") >= 3  # once for the model, and for each method
    found = json.loads((out / "compare.json").read_text())
    assert found["images"] == {"train": 14, "val": 6, "test": 10}
    assert [(cell["model"], cell["method"]) for cell in found["cells"]] == [
        (model, method) for model in ("test_resnet", "test_vit") for method in ("gradcam", "layercam")
    ]
    for one in found["models"]:
        run = load_classifier(out / "runs" / one["name"])
        assert one["parameters"] == sum(parameter.numel() for parameter in run.model.parameters())
        assert (one["start"], run.image_size, run.negative) == ("scratch", 32, ("clean",))
        assert run.window == "percentile"
        assert 0 <= one["accuracy"] <= 1
    for cell in found["cells"]:
        assert cell["images"] == 5
        assert 0 <= cell["interval"][0] <= cell["mean_dice"] <= cell["interval"][1] <= 1
        assert cell["seconds"] > 0
    rows = list(csv.DictReader((out / "compare.csv").read_text().splitlines()))
    assert [float(row["mean_dice"]) for row in rows] == [cell["mean_dice"] for cell in found["cells"]]
    assert "Trained from scratch: test_resnet, test_vit." in (out / "compare.md").read_text()
    assert read_image(out / "compare.png").std() > 0
    # Nothing is left to do; even the seconds stay.
    for again in (call, [*files, "--config", str(out / "run.json")]):
        assert json.loads(CliRunner().invoke(app, [*again, "--json"]).stdout) == found


def test_numbers_are_those_of_the_maps(data, make_run, quick):
    sets, run = load_training_data(data / "images/train"), make_run(seed=1)
    classifier = centred(load_classifier(run), sets)
    classifier.save(run)
    found = quick(run)
    cell, (row,) = found.cells[0], found.models
    rest, test = split(sets, 0.3, 0)
    _, val = split(rest, 0.25, 0)

    def pairs(part):
        for sample in part.samples:
            if sample.labels == ("scratch",):
                cam = compute_cams(classifier, [read_image(sample.path)], ["scratch"])["layercam"][0]
                yield cam, read_mask(data / f"masks/train/{sample.name}.png")

    def judged(pairs, level):
        return np.mean([dice(mask_counts(np.rint(cam * 255) > level, mask)) for cam, mask in pairs])

    tested, validated = list(pairs(test)), list(pairs(val))
    assert cell.mean_dice == pytest.approx(np.mean([mean_dice(*pair) for pair in tested]), abs=1e-6)
    assert cell.dice == pytest.approx(judged(tested, cell.level), abs=1e-6)
    assert judged(validated, cell.level) == pytest.approx(max(judged(validated, level) for level in range(256)))
    truth, seen = zip(*[(sample.labels[0], predicted(classifier, sample)) for sample in test.samples], strict=True)
    assert row.accuracy == np.mean([one == other for one, other in zip(truth, seen, strict=True)])
    assert row.macro_f1 == pytest.approx(f1_score(truth, seen, average="macro"))
    assert row.accuracy != np.mean([sample.labels[0] == predicted(classifier, sample) for sample in val.samples])


def test_one_class_of_the_masks(data, make_run, quick, tmp_path):
    for path in (data / "masks/train").rglob("*.png"):
        levels = np.where(read_mask(path), 3, 5).astype(np.uint8)
        write_image(tmp_path / "numbers" / path.relative_to(data / "masks/train"), levels)
    run = make_run(seed=1)
    expected = quick(run).cells[0]
    words = [
        "compare",
        data / "images/train",
        "--models",
        run,
        "-o",
        tmp_path / "other",
        "--methods",
        METHODS.methods[0],
    ]
    words += ["--masks", tmp_path / "numbers", "--test-fraction", "0.3", "--val-fraction", "0.25", "--device", "cpu"]
    words += ["--mask-class", "thing", "--mask-classes", tmp_path / "classes.csv", "--json"]
    (tmp_path / "classes.csv").write_text("thing,3\nrest,5\n")
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["cells"]
    assert (found["mean_dice"], found["level"]) == (expected.mean_dice, expected.level)
    assert json.loads((tmp_path / "other/run.json").read_text())["settings"]["mask_classes"] == {"thing": 3, "rest": 5}


def centred(classifier, sets):
    """The classifier with a bias that lets it find each of its two classes in half of the images."""
    probabilities = predict(classifier, [read_image(sample.path) for sample in sets.samples])
    with torch.no_grad():
        margin = np.median(np.log(probabilities[:, 1] / probabilities[:, 0]))
        classifier.model.get_submodule(classifier.head_layers[0]).bias[1] -= float(margin)
    return classifier


def predicted(classifier, sample):
    return classifier.classes[predict(classifier, [read_image(sample.path)]).argmax()]


def test_images_of_one_group_are_drawn_together(data, make_run, tmp_path):
    place = data / "images/test/groups.csv"
    call = {"masks": data / "masks/train", "test_masks": data / "masks/test", "changes": {"weights": "none"}}
    found = compare_models([make_run()], data / "images/train", tmp_path / "out", test=place, **call)
    dices = json.loads(next((tmp_path / "out/cells").glob("*/layercam.json")).read_text())["mean_dice"]
    assert list(dices) == [f"scratch/{index}" for index in range(5)]
    values = list(dices.values())
    assert found.cells[0].interval == bootstrap_interval(values, groups=[0, 0, 1, 1, 2]) != bootstrap_interval(values)


@pytest.fixture
def deep(tmp_path):
    """Float images of levels up to 1000, six with a bright square and six without, and masks of the squares."""
    random = np.random.default_rng(0)
    for index in range(6):
        mask = np.zeros((32, 32), bool)
        top, left = random.integers(0, 20, 2)
        mask[top : top + 12, left : left + 12] = True
        write_mask(tmp_path / f"deep/masks/scratch/{index}.png", mask)
        for label, level in (("clean", 0), ("scratch", 600)):
            place = tmp_path / f"deep/images/{label}/{index}.tif"
            place.parent.mkdir(parents=True, exist_ok=True)
            PilImage.fromarray((random.uniform(0, 400, mask.shape) + level * mask).astype(np.float32)).save(place)
    return tmp_path / "deep"


def test_each_member_sees_its_own_window(deep, make_classifier, tmp_path):
    settings = {"classes": ("clean", "scratch"), "negative": ("clean",), "image_size": 32}
    members = tuple(make_classifier(seed=n, window=window, **settings) for n, window in ((1, "0,3000"), (2, "0,400")))
    Ensemble(members=members, shares=(0.5, 0.5)).save(tmp_path / "both")
    call = {"settings": TESTED, "changes": {**QUICK, "window": "percentile"}}
    judged = compare_models(
        ["test_resnet", str(tmp_path / "both")], deep / "images", tmp_path / "a", masks=deep / "masks", **call
    )
    scored = compare_models([str(tmp_path / "both")], deep / "images", tmp_path / "b", **call)
    assert load_classifier(tmp_path / "a/runs/test_resnet").window == "percentile"
    test = split(load_training_data(deep / "images"), 0.3, 0)[1].samples
    right, dices, drops = [], [], []
    for sample in test:
        views = [read_image(sample.path, member.window) for member in members]
        pairs = list(zip(members, views, strict=True))
        votes = sum(predict(member, [view])[0] for member, view in pairs)
        right.append(settings["classes"][votes.argmax()] == sample.labels[0])
        if sample.labels == ("scratch",):
            cam = sum(compute_cams(member, [view], ["scratch"])["layercam"][0] for member, view in pairs) / 2
            dices.append(mean_dice(cam, read_mask(deep / f"masks/{sample.name}.png")))
            hidden = sum(predict(member, [filter_image(view, cam)])[0] for member, view in pairs)
            drops.append(confidence_drop(votes[1], hidden[1]))
    assert judged.models[1].accuracy == scored.models[0].accuracy == np.mean(right)
    assert judged.cells[1].mean_dice == pytest.approx(np.mean(dices), abs=1e-6)
    assert scored.cells[0].average_drop == pytest.approx(np.mean(drops), abs=1e-5)
    assert len(dices) == 2


def test_killed_it_goes_on(quick, monkeypatch):
    expected = quick("test_resnet", "med_ic", out="whole")
    train, judge, done = compare.run_training, Judge.maps, []

    def dies_at_the_second(prepared, run, **options):
        if run.name == "med_ic":
            raise KeyboardInterrupt
        return train(prepared, run, **options)

    def counted(self, classifier, method, title):
        if title == "med_ic, eigencam" and title not in done:
            done.append(title)
            raise KeyboardInterrupt
        done.append(title)
        return judge(self, classifier, method, title)

    monkeypatch.setattr(Judge, "maps", counted)
    monkeypatch.setattr(compare, "run_training", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        quick("test_resnet", "med_ic")
    monkeypatch.setattr(compare, "run_training", train)
    with pytest.raises(KeyboardInterrupt):
        quick("test_resnet", "med_ic")
    monkeypatch.setattr(compare, "run_training", None)  # both are trained
    found = quick("test_resnet", "med_ic")
    assert done == ["test_resnet, layercam", "test_resnet, eigencam", "med_ic, layercam", *["med_ic, eigencam"] * 2]
    assert but_seconds(found.to_dict()) == but_seconds(expected.to_dict())
    # Methods and fewer models may come and go; settings may not.
    more = quick("med_ic", cams=CamSettings(methods=("eigencam", "gradcam")))
    assert done[5:] == ["med_ic, gradcam"]
    assert more.cells[0] == found.cells[3]
    with pytest.raises(OutputError, match="epochs 1 -> 2"):
        quick("med_ic", epochs=2)
    with pytest.raises(OutputError, match="flip off -> on"):
        quick("med_ic", cams=CamSettings(flip=True))


@pytest.mark.parametrize("edited", ["images/train/clean", "masks/train/scratch"])
def test_files_edited_under_their_names_are_another_comparison(quick, data, tmp_path, edited):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    call = {"settings": TESTED, "masks": copy / "masks/train", "changes": QUICK}
    first = compare_models(["test_resnet"], copy / "images/train", tmp_path / "out", **call)
    again = compare_models(["test_resnet"], copy / "images/train", tmp_path / "out", **call)
    assert again == first
    for path in (copy / edited).iterdir():
        read, write = (read_mask, write_mask) if edited.startswith("masks") else (read_image, write_image)
        picture = read(path)
        picture[3:5, 3:5] = ~picture[3:5, 3:5]
        write(path, picture)
    with pytest.raises(OutputError, match="contents "):
        compare_models(["test_resnet"], copy / "images/train", tmp_path / "out", **call)


def test_without_masks_the_score_judges(data, make_run, make_classifier, tmp_path):
    ensemble = tmp_path / "both"
    members = tuple(make_classifier(seed=n, classes=("clean", "scratch"), image_size=32) for n in (1, 2))
    Ensemble(members=members, shares=(0.5, 0.5)).save(ensemble)
    found = compare_models([make_run(), str(ensemble)], data / "images/train", tmp_path / "out", TESTED, changes=QUICK)
    assert [one.name for one in found.models] == ["run", "both"]
    assert found.models[1].parameters == 2 * found.models[0].parameters
    classifier, drops = load_classifier(tmp_path / "run"), []
    for sample in split(load_training_data(data / "images/train"), 0.3, 0)[1].samples:
        image, label = read_image(sample.path), sample.labels[0]
        cam = compute_cams(classifier, [image], [label])["layercam"][0]
        target = classifier.class_index(label)
        drops.append(confidence_drop(*confidences(lambda x, k=target: predict(classifier, list(x))[:, k], image, cam)))
    assert found.cells[0].average_drop == pytest.approx(np.mean(drops), abs=1e-5)
    for cell in found.cells:
        assert (cell.mean_dice, cell.dice, cell.level, cell.interval) == (None,) * 4
        assert cell.images == 6
        assert 0 <= cell.average_drop <= 1
    assert found.model_table()[0][-1] == "layercam"
    assert "average drop" in found.cell_table()[0]
    assert "What both was trained on cannot be told" in " ".join(found.notes)


def test_runs_that_saw_the_test_images_are_named(data, quick, tmp_path):
    found = quick("test_resnet")
    run = tmp_path / "out/runs/test_resnet"
    same = quick(str(run), out="same")
    assert "learned from" not in " ".join(same.notes)
    assert [cell.mean_dice for cell in same.cells] == [cell.mean_dice for cell in found.cells]
    other = quick(str(run), out="other", seed=1)
    sets = load_training_data(data / "images/train")
    rest, test = split(sets, 0.3, 0)
    tested = {sample.name for sample in split(sets, 0.3, 1)[1].samples}
    learned, validated = (len(tested.intersection(one.name for one in part.samples)) for part in split(rest, 0.25, 0))
    assert f"test_resnet learned from {learned} and was validated on {validated} of the 6 test images." in other.notes
    assert learned + validated == len(tested - {sample.name for sample in test.samples}) > 0


def test_overwriting_removes_a_comparison_and_nothing_else(quick, tmp_path):
    (tmp_path / "out/runs/mine").mkdir(parents=True)
    with pytest.raises(OutputError, match="holds other files"):
        quick("test_resnet")
    quick("test_resnet", overwrite=True)
    assert (tmp_path / "out/runs/mine").exists()
    quick("test_resnet", overwrite=True, seed=1)
    assert not (tmp_path / "out/runs/mine").exists()
    assert (tmp_path / "out/runs/test_resnet/metrics.json").exists()


def test_a_weights_file_serves_whom_it_fits(quick, make_run):
    said = f"{make_run()}/model.safetensors"
    found = quick("test_resnet", "test_vit", weights=said, cams=CamSettings())
    assert [one.start for one in found.models] == ["model.safetensors", "scratch"]
    assert "Trained from scratch: test_vit." in found.notes
    with pytest.raises(CheckpointError, match="no such weights file"):
        quick("test_resnet", weights="nothing.safetensors", out="none")


def test_what_does_not_do_is_refused_before_anything_is_trained(data, make_run, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "run_training", None)
    with pytest.raises(InputError, match="'nothing_net' is no folder of a run, and no architecture"):
        quick("test_resnet", "nothing_net")
    with pytest.raises(InputError, match="'no/such' is no folder of a run"):
        quick("test_resnet", "no/such")
    with pytest.raises(InputError, match="different models"):
        quick("test_resnet", "test_resnet")
    with pytest.raises(InputError, match="different models"):
        quick(make_run("twice"), f"{make_run('twice')}/")
    with pytest.raises(InputError, match="different models"):
        quick("ResNet50", "resnet50")
    with pytest.raises(InputError, match="at least one; got none"):
        quick()
    for settings in ({"test_fraction": 0.0}, {"cams": CamSettings(raw=True)}, {"cams": {"methods": "magic"}}):
        with pytest.raises(InputError):
            CompareSettings(**settings)
    with pytest.raises(InputError, match="unknown CAM method 'magic'"):
        CamSettings(methods=("magic",))
    with pytest.raises(LayerError):
        quick("test_resnet", cams=CamSettings(layers=("nowhere",)))
    with pytest.raises(InputError, match=r"clean, dent apart, and .* holds clean, scratch"):
        quick(make_run("dents", classes=("clean", "dent")))
    with pytest.raises(InputError, match="independent classes"):
        quick(make_run("several", multi_label=True))
    images, masks, out = data / "images/train", data / "masks/train", tmp_path / "out"
    test = data / "images/test"
    for message, error, given in (
        ("no masks of them; give --test and --test-masks", InputError, {"test": test, "masks": masks}),
        ("but no test images", InputError, {"masks": masks, "test_masks": masks}),
        ("they choose the threshold", InputError, {"test": test, "test_masks": masks}),
        ("are missing, the first is clean/", EvaluationError, {"masks": data / "images"}),
        ("not both", InputError, {"test": test, "settings": TESTED}),
        ("20 images of .* are in .* too", DatasetError, {"test": images, "changes": {"weights": "none"}}),
        ("leave out model, val", InputError, {"changes": {"model": "test_vit", "val": "elsewhere"}}),
        ("leave out test_fraction", InputError, {"changes": {"test_fraction": 0.1}}),
        ("'image_sise'", InputError, {"changes": {"image_sise": 3}}),
    ):
        with pytest.raises(error, match=message):
            compare_models(["test_resnet"], images, out, **{"changes": {"weights": "none"}, **given})
    with pytest.raises(InputError, match="every test image is of a negative class"):
        compare_models(["test_resnet"], images, out, TESTED, changes={**QUICK, "negative": ("clean", "scratch")})
    with pytest.raises(OutputError, match="lies in the output folder"):
        compare_models([make_run("mine/run")], images, tmp_path / "mine", changes=QUICK)
    with pytest.raises(DatasetError, match="have no label"):
        compare_models(["test_resnet"], images / "clean", out, changes=QUICK)
    for index in range(10):
        for label in ("clean", "scratch"):
            write_mask(tmp_path / f"empty/{label}/{index}.png", np.zeros((32, 32), bool))
            write_mask(tmp_path / f"small/{label}/{index}.png", np.ones((8, 8), bool))
    for name, message in (("empty", "validation images are empty"), ("small", "differ in size")):
        with pytest.raises(EvaluationError, match=message):
            compare_models(["test_resnet"], images, out, masks=tmp_path / name, changes=QUICK)
    assert not out.exists()


def test_heat_map():
    picture = plot_heat_map([[0.1, 0.2], [0.3, 0.9]], ["a", "b"], ["x", "y"], label="mean-Dice")
    assert {tuple(color) for color in picture.reshape(-1, 3)} >= {(0, 34, 78), (254, 232, 56)}  # cividis' ends
    for values in ([], [[0.1]], [[0.1, np.nan], [0.3, 0.4]]):
        with pytest.raises(InputError, match="expected finite numbers"):
            plot_heat_map(values, ["a", "b"], ["x", "y"], label="mean-Dice")
