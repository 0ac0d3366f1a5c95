"""The audit of tiny runs on tiny images: each number from its files, nothing trained twice, rubbish refused."""

import csv
import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from typer.testing import CliRunner

from camseg.base.errors import CheckpointError, DatasetError, EvaluationError, InputError, OutputError
from camseg.cams.compute import compute_cams
from camseg.cams.predict import predict
from camseg.classify.checkpoint import load_network
from camseg.cli import app
from camseg.data.datasets import load_training_data
from camseg.data.images import read_image, read_mask, write_image, write_mask
from camseg.data.splits import split
from camseg.measure.faithfulness import (
    confidence_drop,
    confidence_rises,
    confidences,
    deletion_curve,
    filter_image,
    insertion_curve,
    pointing_hit,
)
from camseg.measure.figures import plot_scatter
from camseg.measure.metrics import bootstrap_interval, mean_dice
from camseg.studies import audit
from camseg.studies.audit import audit_runs
from camseg.studies.audit_report import FILTERS, MAP_MEASURES
from camseg.studies.settings import AuditSettings
from camseg.train.plan import plan_training

QUICK = AuditSettings(epochs=1, seeds=2, val_fraction=0.25, batch_size=8, steps=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six images with a bright square and six without; masks of the squares for the former only."""
    root, random = tmp_path_factory.mktemp("audit"), np.random.default_rng(0)
    lines = ["image,label,group"]
    for index in range(6):
        mask = np.zeros((32, 32), bool)
        top, left = random.integers(0, 20, 2)
        mask[top : top + 12, left : left + 12] = True
        for label in ("clean", "scratch"):
            image = random.integers(60, 120, (32, 32, 3)).astype(np.uint8)
            if label == "scratch":
                image[mask] = (220, 200, 40)
                write_mask(root / f"masks/{label}/{index}.png", mask)
            write_image(root / f"images/{label}/{index}.png", image)
            lines.append(f"{label}/{index}.png,{label},{index // 2}")
    (root / "images/groups.csv").write_text("\n".join(lines))
    return root


@pytest.fixture
def make_run(make_classifier, tmp_path):
    def make(name="run", seed=0, classes=("clean", "scratch"), negative=("clean",), **settings):
        make_classifier(seed=seed, classes=classes, negative=negative, image_size=32, **settings).save(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def quick_training(monkeypatch):
    """Trainings that only write down what they were given; their accuracy is 0.5 + seed / 10."""
    calls = []

    def train(classifier, train, val, out, settings, **_options):
        calls.append((out.parent.name, settings.seed, classifier, train, val))
        out.mkdir(parents=True)
        (out / "model.safetensors").touch()
        (out / "metrics.json").write_text(json.dumps({"accuracy": 0.5 + settings.seed / 10}))

    monkeypatch.setattr(audit, "train_classifier", train)
    return calls


def test_from_start_to_end(data, make_run, tmp_path):
    out, run = tmp_path / "out", make_run()
    call = ["audit", str(run), str(data / "images"), "--out", str(out), "--masks", str(data / "masks"), "--json"]
    call += ["--epochs", "1", "--seeds", "1", "--val-fraction", "0.25", "--batch-size", "8", "--steps", "4"]
    result = CliRunner().invoke(app, [*call, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((out / "audit.json").read_text())
    (one,) = found["runs"]
    assert one["name"] == "run"
    assert list(one["accuracies"]) == list(FILTERS)
    assert list(one["measures"]) == list(MAP_MEASURES)
    assert one["measures"]["insertion"]["count"] == 3
    assert one["measures"]["pointing_game"]["count"] == one["mean_dice"]["count"] == 6
    assert found["majority"] == 0.5
    for estimate in [*one["measures"].values(), one["mean_dice"]]:
        assert 0 <= estimate["low"] <= estimate["mean"] <= estimate["high"] <= 1
    for kind, values in one["by_seed"].items():
        metrics = json.loads(next(out.glob(f"trainings/*/{kind}/0/metrics.json")).read_text())
        assert values == [metrics["accuracy"]]
        assert one["accuracies"][kind] == {"mean": metrics["accuracy"], "low": None, "high": None, "count": 1}
    assert not list(out.rglob("*.safetensors"))
    rows = list(csv.DictReader((out / "audit.csv").read_text().splitlines()))
    assert {row["measure"] for row in rows} == {*(f"accuracy {kind}" for kind in FILTERS), *MAP_MEASURES, "mean_dice"}
    assert (out / "audit.md").read_text().count("| run |") == 4
    assert read_image(out / "audit.png").std() > 0
    # Nothing is left to do, so nothing is trained.
    written = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}
    again = CliRunner().invoke(app, [*call, "--device", "cpu"])
    assert json.loads(again.stdout) == found
    assert {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")} == written


def test_what_the_networks_are_shown(data, make_run, quick_training, tmp_path):
    found = audit_runs(
        [make_run()], data / "images", tmp_path / "out", masks=data / "masks", settings=QUICK, keep_filtered=True
    )
    folder, sets = tmp_path / "out/filtered/run", load_training_data(data / "images")
    for kind, seed, classifier, train, val in quick_training:
        expected = split(sets, 0.25, seed)
        assert [[sample.name for sample in part.samples] for part in (train, val)] == [
            [sample.name for sample in part.samples] for part in expected
        ]
        assert (classifier.arch, classifier.image_size, classifier.classes) == ("test_resnet", 32, ("clean", "scratch"))
        place = folder / kind if kind == "cam" else data / "images" if kind == "original" else folder / f"{kind}-{seed}"
        assert all(sample.path.with_suffix("") == place / sample.name for sample in (*train.samples, *val.samples))
    assert [(kind, seed) for kind, seed, *_ in quick_training] == [(kind, seed) for seed in (0, 1) for kind in FILTERS]
    for seed in (0, 1):
        for part in split(sets, 0.25, seed):
            masks = [read_mask(data / f"masks/{name}.png") for name in _scratched(part)]
            for sample in part.samples:
                image = read_image(sample.path)
                truth = read_image(folder / f"truth-{seed}/{sample.name}.png")
                inverse = read_image(folder / f"inverse-{seed}/{sample.name}.png")
                np.testing.assert_array_equal(truth + inverse, image)
                shown = truth.any(axis=2)
                if sample.name in _scratched(part):
                    np.testing.assert_array_equal(shown, read_mask(data / f"masks/{sample.name}.png"))
                else:  # borrowed on the same side of the split
                    assert any((shown == mask).all() for mask in masks)
    # Negatives have maps too.
    shown = [read_image(folder / f"cam/{sample.name}.png") for sample in sets.samples]
    images = [read_image(sample.path) for sample in sets.samples]
    cams = own_maps(load_network(tmp_path / "run"), images, sets.samples)
    for name, picture, image, cam in zip(sets.samples, shown, images, cams, strict=True):
        assert np.abs(picture.astype(int) - filter_image(image, cam)).max() <= 1, name
    assert found.runs[0].black == 0


def _scratched(part):
    return [sample.name for sample in part.samples if sample.labels == ("scratch",)]


def own_maps(classifier, images, samples):
    return compute_cams(classifier, images, [sample.labels[0] for sample in samples], gate=False)["layercam"]


def test_one_class_of_masks_and_void_pixels_in_neither_picture(data, make_run, quick_training, tmp_path):
    void = np.zeros((32, 32), bool)
    void[::4] = True
    for path in (data / "masks/scratch").glob("*.png"):
        levels = np.where(void, 255, np.where(read_mask(path), 3, 5))
        write_image(tmp_path / f"masks/scratch/{path.name}", levels.astype(np.uint8))
    words = ["audit", make_run(), data / "images", "-o", tmp_path / "out", "--masks", tmp_path / "masks", "--filtered"]
    words += ["--seeds", "1", "--epochs", "1", "--mask-class", "3", "--device", "cpu"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out/run.json").read_text())["settings"]["mask_class"] == "3"
    for index in range(6):
        image = read_image(data / f"images/scratch/{index}.png")
        mask = read_mask(data / f"masks/scratch/{index}.png")
        shown = [
            read_image(tmp_path / f"out/filtered/run/{kind}-0/scratch/{index}.png") for kind in ("truth", "inverse")
        ]
        for picture, part in zip(shown, (mask & ~void, ~mask & ~void), strict=True):
            np.testing.assert_array_equal(picture, image * part[..., None])


def test_the_measures_are_those_of_the_maps(data, make_run, quick_training, tmp_path):
    run = make_run()
    (found,) = audit_runs([run], data / "images", tmp_path / "out", masks=data / "masks", settings=QUICK).runs
    classifier, sets = load_network(run), load_training_data(data / "images")
    expected = {name: [] for name in MAP_MEASURES}
    for sample in split(sets, 0.25, 0)[1].samples:
        square = classifier.to_input(read_image(sample.path))
        (cam,) = own_maps(classifier, [square], [sample])
        target = classifier.class_index(sample.labels[0])

        def score(images, target=target):
            return predict(classifier, list(images))[:, target]

        mean, pair = 255 * np.asarray(classifier.mean), confidences(score, square, cam)
        expected["insertion"].append(insertion_curve(score, square, cam, steps=4).area)
        expected["deletion"].append(deletion_curve(score, square, cam, baseline=mean, steps=4).area)
        expected["average_drop"].append(confidence_drop(*pair))
        expected["increase"].append(confidence_rises(*pair))
    dices = []
    for name in _scratched(sets):
        (cam,) = compute_cams(classifier, [read_image(data / f"images/{name}.png")], ["scratch"])["layercam"]
        mask = read_mask(data / f"masks/{name}.png")
        expected["pointing_game"].append(pointing_hit(cam, mask))
        dices.append(mean_dice(cam, mask))
    assert {name: one.mean for name, one in found.measures.items()} == pytest.approx(
        {name: np.mean(values) for name, values in expected.items()}, abs=1e-4
    )
    assert found.mean_dice.mean == pytest.approx(np.mean(dices), abs=1e-4)


def test_images_of_one_group_are_drawn_together(data, make_run, quick_training, tmp_path):
    audited = audit_runs(
        [make_run()], data / "images/groups.csv", tmp_path / "out", masks=data / "masks", settings=QUICK
    )
    dices = json.loads(next((tmp_path / "out/maps").iterdir()).read_text())["mean_dice"]
    values = list(dices.values())
    interval = bootstrap_interval(values, groups=[int(name.rpartition("/")[2]) // 2 for name in dices])
    found = audited.runs[0].mean_dice
    assert (found.low, found.high) == interval != bootstrap_interval(values)


def test_seeds_give_the_corrected_resampled_interval(data, make_run, quick_training, tmp_path):
    settings = replace(QUICK, seeds=3)
    found = audit_runs([make_run()], data / "images", tmp_path / "out", settings=settings)
    # Of 0.5, 0.6 and 0.7, from splits of nine images and three: 4.3027 * 0.1 * sqrt(1 / 3 + 3 / 9).
    accuracy = found.runs[0].accuracies["cam"]
    assert (accuracy.mean, accuracy.count) == (pytest.approx(0.6), 3)
    assert (accuracy.low, accuracy.high) == (pytest.approx(0.24869, abs=1e-5), pytest.approx(0.95131, abs=1e-5))
    # Of two values 12.706 * 0.0707 * sqrt(1 / 2 + 1 / 4) would lead out of [0, 1].
    two = audit._over_seeds([0.5, 0.6], 0.25)
    assert (two.low, two.high) == (0.0, 1.0)
    # One accuracy, or equal ones, do not say how far they spread.
    for values in ([0.5], [0.5, 0.5, 0.5]):
        one = audit._over_seeds(values, 0.25)
        assert (str(one), one.low, one.count) == ("0.500", None, len(values))
    assert "chosen by macro-F1 on the validation images that its accuracy is of" in found.note


def test_runs_that_had_met_the_measured_images_are_named(data, make_run, quick_training, tmp_path):
    sets = load_training_data(data / "images")
    measured = {sample.name for sample in split(sets, 0.25, 0)[1].samples}
    training = plan_training(data / "images", changes={"weights": "none", "seed": 1, "val_fraction": 0.25})
    met = tmp_path / "met"
    replace(load_network(make_run()), training=json.loads(json.dumps(asdict(training)))).save(met)
    found = audit_runs([tmp_path / "run", met], data / "images", tmp_path / "out", settings=QUICK)
    parts = split(sets, 0.25, 1)
    learned, validated = (len(measured.intersection(sample.name for sample in part.samples)) for part in parts)
    assert f"met learned from {learned} and was validated on {validated} of the 3 validation images" in found.note
    assert "What run was trained on cannot be told" in found.note
    assert learned + validated == 3


@pytest.mark.parametrize("edited", ["images/clean/0.png", "masks/scratch/0.png"])
def test_files_edited_under_their_names_are_another_audit(data, make_run, quick_training, tmp_path, edited):
    copy, run, call = tmp_path / "copy", make_run(), {"masks": tmp_path / "copy/masks", "settings": QUICK}
    shutil.copytree(data, copy)
    audit_runs([run], copy / "images", tmp_path / "out", **call)
    audit_runs([run], copy / "images", tmp_path / "out", **call)
    if edited.startswith("masks"):
        write_mask(copy / edited, ~read_mask(copy / edited))
    else:
        write_image(copy / edited, 255 - read_image(copy / edited))
    with pytest.raises(OutputError, match="contents "):
        audit_runs([run], copy / "images", tmp_path / "out", **call)


def test_what_decides_is_known_by_its_content(data, make_run, quick_training, tmp_path, monkeypatch):
    weights = make_run("first") / "model.safetensors"
    settings = replace(QUICK, weights=str(weights), seeds=1)
    run = make_run("run", seed=1)
    audit_runs([run], data / "images", tmp_path / "out", masks=data / "masks", settings=settings)
    assert json.loads((tmp_path / "out/run.json").read_text())["identity"]["device"] in ("cpu", "cuda", "mps")
    done = len(quick_training)
    monkeypatch.chdir(data)
    audit_runs([run], "images", tmp_path / "out", masks="masks", settings=settings)
    assert len(quick_training) == done
    shutil.copy(make_run("second", seed=2) / "model.safetensors", weights)
    with pytest.raises(OutputError, match="weights "):
        audit_runs([run], data / "images", tmp_path / "out", masks=data / "masks", settings=settings)


def test_overwriting_removes_an_audit_and_nothing_else(data, make_run, quick_training, tmp_path):
    run, mine = make_run(), tmp_path / "out/maps/mine.png"
    write_image(mine, np.zeros((4, 4), np.uint8))
    with pytest.raises(OutputError, match="holds other files"):
        audit_runs([run], data / "images", tmp_path / "out", settings=QUICK)
    audit_runs([run], data / "images", tmp_path / "out", settings=QUICK, overwrite=True)
    assert mine.exists()
    trained = len(quick_training)
    audit_runs([run], data / "images", tmp_path / "out", settings=QUICK, overwrite=True)
    assert len(quick_training) == 2 * trained
    assert not mine.exists()


def test_what_cannot_be_trained_is_refused_before_any_work(data, make_run, quick_training, tmp_path):
    runs = [make_run(), make_run("vit", arch="test_vit")]
    weights = str(tmp_path / "run/model.safetensors")
    for changes, error, message in (
        ({"image_size": 3}, InputError, "image size"),
        ({"weights": weights}, CheckpointError, "does not fit the model"),
        ({"weights": str(tmp_path / "none.safetensors")}, CheckpointError, "no such weights file"),
    ):
        with pytest.raises(error, match=message):
            audit_runs(runs, data / "images", tmp_path / "out", settings=replace(QUICK, **changes))
    assert not (tmp_path / "out").exists()


def test_without_masks_two_trainings_and_four_measures_run(data, make_run, quick_training, tmp_path):
    found = audit_runs([make_run()], data / "images", tmp_path / "out", settings=QUICK)
    assert {kind for kind, *_ in quick_training} == {"original", "cam"}
    (one,) = found.runs
    assert list(one.measures) == [name for name in MAP_MEASURES if name != "pointing_game"]
    assert one.mean_dice is None
    assert not (tmp_path / "out/audit.png").exists()
    assert not (tmp_path / "out/filtered").exists()
    assert found.accuracy_table()[1][0][-3:] == ("-", "-", "-")


def test_runs_share_what_does_not_depend_on_their_maps(data, make_run, quick_training, tmp_path):
    runs = [make_run("a/run", seed=1), make_run("b/run", seed=2)]
    found = audit_runs(runs, data / "images", tmp_path / "out", masks=data / "masks", settings=QUICK)
    assert [run.name for run in found.runs] == ["a/run", "b/run"]
    kinds = [kind for kind, *_ in quick_training]
    assert [kinds.count(kind) for kind in FILTERS] == [2, 4, 2, 2]
    # More seeds, and only they are trained; other settings are refused.
    del quick_training[:]
    more = AuditSettings(epochs=1, seeds=3, val_fraction=0.25, batch_size=8, steps=4)
    audit_runs(runs[:1], data / "images", tmp_path / "out", masks=data / "masks", settings=more)
    assert [(kind, seed) for kind, seed, *_ in quick_training] == [(kind, 2) for kind in FILTERS]
    with pytest.raises(OutputError, match="epochs 1 -> 30"):
        audit_runs(runs, data / "images", tmp_path / "out", masks=data / "masks", settings=AuditSettings(seeds=1))


def test_negative_classes_change_no_training(data, make_run, quick_training, tmp_path):
    runs = [make_run("a"), make_run("b", negative=())]
    audit_runs(runs, data / "images", tmp_path / "out", settings=QUICK)
    kinds = [kind for kind, *_ in quick_training]
    assert (kinds.count("original"), kinds.count("cam")) == (2, 4)


def test_another_size_of_the_inputs(data, make_run, quick_training, tmp_path):
    run = make_run(arch="test_vit", model_args={"img_size": 32})
    settings = AuditSettings(epochs=1, seeds=1, steps=1, image_size=48)
    audit_runs([run], data / "images", tmp_path / "out", settings=settings)
    (_, _, classifier, *_), _ = quick_training
    assert classifier.image_size == classifier.model_args["img_size"] == 48


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        ({"classes": ("clean", "dent")}, InputError, "clean, dent apart, and .* holds clean, scratch"),
        ({"classes": ("clean", "scratch"), "multi_label": True}, InputError, "independent classes"),
        ({"negative": ()}, EvaluationError, "6 are missing, the first is clean/0"),
    ],
)
def test_runs_and_masks_that_do_not_fit(data, make_run, quick_training, tmp_path, run, error, message):
    with pytest.raises(error, match=message):
        audit_runs([make_run(**run)], data / "images", tmp_path / "out", masks=data / "masks", settings=QUICK)
    assert not (tmp_path / "out").exists()


def test_images_and_masks_that_do_not_do(data, make_run, make_folder, quick_training, tmp_path):
    run, out = make_run(), tmp_path / "out"
    with pytest.raises(DatasetError, match="at least 2 classes"):
        audit_runs([run], data / "masks", out, settings=QUICK)
    few = tmp_path / "few"
    for level, name in enumerate(("clean/a", "scratch/b")):
        write_image(few / f"{name}.png", np.full((8, 8, 3), level, np.uint8))
    with pytest.raises(DatasetError, match="part of the split holds no image"):
        audit_runs([run], few, out, settings=QUICK)
    (tmp_path / "many.csv").write_text("image,label\nfew/clean/a.png,clean;scratch\nfew/scratch/b.png,scratch\n")
    with pytest.raises(DatasetError, match="one class each"):
        audit_runs([run], tmp_path / "many.csv", out, settings=QUICK)
    with pytest.raises(InputError, match="different runs"):
        audit_runs([run, run], data / "images", out, settings=QUICK)
    with pytest.raises(InputError, match="at least one; got none"):
        audit_runs([], data / "images", out, settings=QUICK)
    assert not out.exists()
    for name, mask, message in (
        ("small", (8, 8), "differ in size"),
        ("empty", (32, 32), "images are empty"),
        ("one", (32, 32), "empty on one"),
    ):
        for index in range(6):
            write_mask(tmp_path / f"{name}/scratch/{index}.png", np.full(mask, name == "one" and index == 0))
        with pytest.raises(EvaluationError, match=message):
            audit_runs([run], data / "images", out, masks=tmp_path / name, settings=QUICK)
    assert not out.exists()
    assert not quick_training


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"seeds": 0}, {"steps": 0}, {"learning_rate": 0.0}, {"method": "magic"}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(InputError, match=r"expected|magic"):
        AuditSettings(**wrong)


def test_scatter_plot():
    points = {"a": ((0.4, 0.3, 0.5), (0.8, 0.7, 0.9)), "b": ((0.6, 0.6, 0.6), (0.9, 0.9, 0.9))}
    picture = plot_scatter(points, xlabel="mean-Dice", ylabel="accuracy")
    assert {tuple(color) for color in picture.reshape(-1, 3)} >= {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)}
    for wrong in ({}, {"a": ((0.4, 0.5, 0.6), (0.8, 0.7, 0.9))}):
        with pytest.raises(InputError, match="expected points"):
            plot_scatter(wrong, xlabel="x", ylabel="y")
