"""Ensembles: votes and maps against their members', rules against scikit-learn's, and the way through folders."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as PilImage
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from typer.testing import CliRunner

from camseg import compute_cams, label_folder, label_image
from camseg.base.errors import CheckpointError, DatasetError, InputError, LayerError, OutputError
from camseg.cams.capture import Network, predict
from camseg.cams.extract import CamSettings
from camseg.classify.checkpoint import RUN_FILES, load_classifier, load_network
from camseg.classify.ensemble import Ensemble, LinearRule
from camseg.cli import app
from camseg.data.datasets import load_images, load_training_data, split
from camseg.data.images import read_image, read_levels, write_image
from camseg.label.folder import cams_folder
from camseg.label.settings import LabelSettings
from camseg.measure.calibration import fit_temperature
from camseg.runs.loop import FolderOptions
from camseg.runs.output import RUN, read_manifest
from camseg.studies.ensembles import make_ensemble
from camseg.train.plan import plan_training, prepare_training, run_training

SIZES = [(40, 60), (64, 64), (30, 90)]
QUICK = LabelSettings(scales=(1.0,), flip=False)


@pytest.fixture
def members(make_classifier):
    """Two architectures with their own preprocessing; the second one knows the classes in another order."""
    first = make_classifier(negative=["none"])
    second = make_classifier(
        "test_vit3",
        seed=1,
        classes=["none", "cat", "dog"],
        negative=["none"],
        image_size=96,
        resize="pad",
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.2),
    )
    return first, replace(second, temperature=1.7)


@pytest.fixture
def ensemble(members):
    return Ensemble(members=members, shares=(0.75, 0.25))


def features_of(member, images):
    return Network(classifier=member, layers=()).forward(member.preprocess(images), gradients=False, features=True)


def rule_over(members, images, seed=0):
    """A rule of random numbers over the members' features."""
    count = sum(features_of(member, images).features.shape[1] for member in members)
    draw = torch.Generator().manual_seed(seed)
    return LinearRule(
        mean=torch.randn(count, generator=draw),
        scale=torch.rand(count, generator=draw) + 0.5,
        coefficients=torch.randn(len(members[0].classes), count, generator=draw) / count,
        intercepts=torch.randn(len(members[0].classes), generator=draw),
    )


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RUN
    }


# Votes


def test_the_soft_vote_is_the_weighted_mean_of_probabilities(ensemble, members, make_images):
    images = make_images(*SIZES)
    first, second = members
    with torch.inference_mode():
        ours = first.model(first.preprocess(images)).softmax(dim=1).numpy()
        theirs = (second.model(second.preprocess(images)) / 1.7).softmax(dim=1).numpy()
    assert ensemble.classes == ("cat", "dog", "none")
    assert np.allclose(predict(ensemble, images), 0.75 * ours + 0.25 * theirs[:, [1, 2, 0]], atol=1e-6)
    assert np.allclose(predict(first, images), ours, atol=1e-6)


def test_independent_classes_have_means_of_their_own(make_classifier, make_images):
    members = tuple(make_classifier(seed=seed, multi_label=True) for seed in (0, 1))
    images = make_images(*SIZES)
    with torch.inference_mode():
        apart = [member.model(member.preprocess(images)).sigmoid().numpy() for member in members]
    joined = Ensemble(members=members, shares=(0.5, 0.5))
    assert np.allclose(predict(joined, images), (apart[0] + apart[1]) / 2, atol=1e-6)
    assert joined.predicted(np.array([[0.6, 0.4, 0.5]])) == [[0, 2]]


def test_features_are_what_the_last_layer_reads(members, make_images):
    for member in members:
        seen = features_of(member, make_images(*SIZES))
        (name,) = member.head_layers
        with torch.no_grad():
            assert torch.allclose(member.model.get_submodule(name)(seen.features), seen.logits, atol=1e-5)
        assert Network(classifier=member, layers=()).forward(member.preprocess(make_images((9, 9)))).features is None


def test_a_network_with_several_last_layers_gives_no_features(tiny_classifier, make_images, monkeypatch):
    monkeypatch.setitem(tiny_classifier.model.pretrained_cfg, "classifier", ("fc", "head"))
    with pytest.raises(LayerError, match=r"classifies with 2 layers \(fc, head\)"):
        features_of(tiny_classifier, make_images((9, 9)))


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_rule_is_linear_in_the_scaled_features(make_classifier, make_images, multi_label):
    members = tuple(make_classifier(seed=seed, multi_label=multi_label) for seed in (0, 1))
    images = make_images(*SIZES)
    rule = rule_over(members, images)
    joined = Ensemble(members=members, shares=(0.5, 0.5), method="logistic", rule=rule)
    features = np.hstack([features_of(member, images).features.numpy() for member in members])
    scaled = (features - rule.mean.numpy()) / rule.scale.numpy()
    logits = scaled @ rule.coefficients.numpy().T + rule.intercepts.numpy()
    powers = np.exp(logits)
    want = powers / (1 + powers) if multi_label else powers / powers.sum(axis=1, keepdims=True)
    assert np.allclose(predict(joined, images), want, atol=1e-5)


# Maps


@pytest.mark.parametrize("settings", [{}, {"scales": "auto", "score": "margin"}, {"raw": True, "flip": True}])
def test_the_map_is_the_weighted_mean_of_the_members_maps(ensemble, members, make_images, settings):
    images, targets = make_images(*SIZES), ["cat", "dog", "cat"]
    methods = ("layercam", "eigencam")
    together = compute_cams(ensemble, images, targets, methods, layer="stages", **settings)
    apart = [compute_cams(member, images, targets, methods, layer="stages", **settings) for member in members]
    for name in methods:
        for cam, ours, theirs in zip(together[name], apart[0][name], apart[1][name], strict=True):
            assert cam.dtype == np.float32
            assert ours.any()
            assert theirs.any()
            assert np.allclose(cam, 0.75 * ours + 0.25 * theirs, rtol=1e-5, atol=1e-6)
            assert settings.get("raw") or cam.max() <= 1


def test_targets_are_the_ensembles_own(ensemble, make_images):
    images = make_images(*SIZES)
    chosen = [ensemble.classes[row[0]] for row in ensemble.predicted(predict(ensemble, images))]
    for cam, again in zip(
        compute_cams(ensemble, images)["layercam"], compute_cams(ensemble, images, chosen)["layercam"], strict=True
    ):
        assert np.array_equal(cam, again)
    (both,) = compute_cams(ensemble, images[:1], [["dog", "none"]])["layercam"]
    assert list(both) == ["dog", "none"]
    assert both["dog"].any()
    assert not both["none"].any()  # gated, as a negative class
    (ungated,) = compute_cams(ensemble, images[:1], ["none"], gate=False)["layercam"]
    assert ungated.any()


def test_a_member_that_counts_nothing_changes_nothing(members, make_images):
    images, targets = make_images(*SIZES), ["cat", "dog", "cat"]
    alone = Ensemble(members=members, shares=(1.0, 0.0))
    assert np.array_equal(predict(alone, images), predict(members[0], images))
    for cam, want in zip(
        compute_cams(alone, images, targets)["layercam"],
        compute_cams(members[0], images, targets)["layercam"],
        strict=True,
    ):
        assert np.array_equal(cam, want)


# Runs


@pytest.mark.parametrize("method", ["soft", "svm"])
def test_saved_and_loaded_it_is_the_same(members, make_images, tmp_path, method):
    images = make_images(*SIZES)
    rule = None if method == "soft" else rule_over(members, images)
    ensemble = Ensemble(members=members, shares=(0.75, 0.25), method=method, rule=rule)
    ensemble.save(tmp_path)
    again = load_classifier(tmp_path)
    assert isinstance(again, Ensemble)
    assert again.fingerprint() == ensemble.fingerprint()
    assert np.array_equal(predict(again, images), predict(ensemble, images))
    assert [member.image_size for member in again.members] == [64, 96]
    assert load_network(tmp_path / "members/1").fingerprint() == members[1].fingerprint()
    with pytest.raises(InputError, match=r"is an ensemble.*members/0"):
        load_network(tmp_path)


def test_the_fingerprint_covers_members_shares_and_rule(ensemble, members, make_classifier, make_images):
    other = replace(ensemble, members=(make_classifier(seed=5, negative=["none"]), members[1]))
    rules = [
        Ensemble(
            members=members, shares=(0.75, 0.25), method=method, rule=rule_over(members, make_images(*SIZES), seed)
        )
        for method, seed in (("svm", 0), ("svm", 1), ("logistic", 0))
    ]
    found = [one.fingerprint() for one in (ensemble, other, replace(ensemble, shares=(0.5, 0.5)), *rules)]
    assert len(set(found)) == len(found)
    assert found[0] == replace(ensemble).fingerprint()


def test_damaged_runs_are_refused(ensemble, tmp_path):
    ensemble.save(tmp_path)
    path = tmp_path / "classifier.json"
    settings = json.loads(path.read_text())
    for changes, message in (
        ({"method": "svm"}, "rule.safetensors"),
        ({"shares": None}, "not an ensemble's settings"),
        ({"members": 3, "shares": [0.5, 0.3, 0.2]}, "members/2 does not exist"),
    ):
        path.write_text(json.dumps({**settings, **changes}))
        with pytest.raises(CheckpointError, match=message):
            load_classifier(tmp_path)
    path.write_text("[]")
    with pytest.raises(CheckpointError, match="not a classifier's settings"):
        load_classifier(tmp_path)


def test_members_must_know_the_same_classes(make_classifier):
    def join(*members, **settings):
        return Ensemble(members=members, **{"shares": (0.5, 0.5), **settings})

    first = make_classifier(negative=["none"])
    with pytest.raises(InputError, match="same classes; member 0 has cat, dog, none, member 1 has cat, dog"):
        join(first, make_classifier(classes=["cat", "dog"]))
    with pytest.raises(InputError, match="same negative; member 0 has none, member 1 has cat"):
        join(first, make_classifier(negative=["cat"]))
    with pytest.raises(InputError, match="all multi-label or all single-label"):
        join(first, make_classifier(negative=["none"], multi_label=True))
    for shares in ((1.0,), (0.5, 0.6), (1.5, -0.5), (float("nan"), 0.5)):
        with pytest.raises(InputError, match="expected 2 shares"):
            join(first, first, shares=shares)
    for settings in ({"method": "logistic"}, {"method": "hard"}):
        with pytest.raises(InputError, match="soft without a rule"):
            join(first, first, **settings)
    with pytest.raises(InputError, match="at least one member"):
        join()


def test_other_negative_classes_and_strides_hold_for_every_member(make_classifier):
    members = tuple(make_classifier(seed=seed) for seed in (0, 1))
    changed = Ensemble(members=members, shares=(0.5, 0.5)).with_negative(["dog"]).with_output_stride(16)
    assert changed.negative == ("dog",)
    assert [member.negative for member in changed.members] == [("dog",)] * 2
    assert [member.model_args["output_stride"] for member in changed.members] == [16, 16]
    with pytest.raises(InputError, match="no class 'bird'"):
        changed.with_negative(["bird"])


# Folders


@pytest.fixture
def images(tmp_path, make_images):
    for name, image in zip(("cat/a", "dog/a", "none/a", "cat/b"), make_images(*SIZES, (50, 20)), strict=True):
        write_image(tmp_path / f"images/{name}.png", image)
    return tmp_path / "images"


@pytest.mark.parametrize("propagation", ["par", "random-walk"])
def test_a_folder_is_labelled_as_its_images_are(ensemble, images, tmp_path, propagation):
    settings = replace(QUICK, propagation=propagation)
    out = tmp_path / "out"
    assert label_folder(images, ensemble, out, settings, batch_size=1).done == 4
    records = {record["name"]: record for record in read_manifest(out)}
    for name, record in records.items():
        image = read_image(images / f"{name}.png")
        labelled = label_image(image, ensemble, record["class"], settings)
        assert np.array_equal(read_levels(out / f"masks/{name}.png") > 0, labelled.mask)
        probability = predict(ensemble, [image])[0, ensemble.class_index(record["class"])]
        assert record["score"] == pytest.approx(float(probability), abs=2e-6)
    assert records["cat/a"]["layer"] == "layer3,layer4;norm"
    assert not read_levels(out / "masks/none/a.png").any()


def test_a_folder_of_maps_is_the_same_twice_and_after_a_stop(ensemble, images, tmp_path):
    settings = CamSettings(methods=("layercam", "gradcam"), scales=(1.0, 1.5))
    for name in ("one", "two"):
        cams_folder(images, ensemble, tmp_path / name, settings, batch_size=3)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    (tmp_path / "two/layercam/dog/a.png").unlink()
    again = cams_folder(images, ensemble, tmp_path / "two", settings, batch_size=3)
    assert (again.done, again.kept) == (1, 3)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    with pytest.raises(OutputError, match="other settings"):
        cams_folder(images, replace(ensemble, shares=(0.5, 0.5)), tmp_path / "two", settings, batch_size=3)


def test_each_member_sees_its_own_window(make_classifier, tmp_path):
    members = tuple(make_classifier(seed=seed, window=window) for seed, window in ((0, "full"), (1, "0,1000")))
    ensemble = Ensemble(members=members, shares=(0.5, 0.5))
    deep = np.random.default_rng(0).integers(0, 1000, (40, 40)).astype(np.uint16)
    (tmp_path / "images").mkdir()
    PilImage.fromarray(deep).save(tmp_path / "images/deep.png")
    out = tmp_path / "out"
    cams_folder(tmp_path / "images", ensemble, out, CamSettings(), targets=["cat"])
    views = [read_image(tmp_path / "images/deep.png", member.window) for member in members]
    apart = [compute_cams(member, [view], ["cat"])["layercam"][0] for member, view in zip(members, views, strict=True)]
    assert np.abs(read_levels(out / "layercam/deep.png") - 255 * (apart[0] + apart[1]) / 2).max() < 0.51


def test_unreadable_images_are_left_out(ensemble, images, tmp_path):
    (images / "dog/b.png").write_bytes(b"no image")
    report = label_folder(images, ensemble, tmp_path / "out", QUICK, options=FolderOptions(workers=2))
    assert (report.done, len(report.failed)) == (4, 1)


# Making one


@pytest.fixture
def runs(make_classifier, tmp_path):
    """Two runs over the classes of ``make_folder``; the second one has them in another order."""
    for n, classes in enumerate((["blue", "red"], ["red", "blue"])):
        make_classifier(seed=n, classes=classes, negative=["blue"], image_size=32).save(tmp_path / f"run{n}")
        (tmp_path / f"run{n}/metrics.json").write_text(json.dumps({"accuracy": (0.9, 0.6)[n]}))
    return [tmp_path / "run0", tmp_path / "run1"]


def test_members_are_copied_as_they_are(runs, tmp_path):
    assert make_ensemble(runs, tmp_path / "out", weights="accuracy", device="cpu") == {}
    made = tree(tmp_path / "out")
    assert set(made) == {"classifier.json"} | {
        f"members/{n}/{name}" for n in "01" for name in ("model.safetensors", "classifier.json")
    }
    for n, run in enumerate(runs):
        for name in ("model.safetensors", "classifier.json"):
            assert made[f"members/{n}/{name}"] == (run / name).read_bytes()
    assert load_classifier(tmp_path / "out").shares == pytest.approx((0.6, 0.4))
    make_ensemble(runs, tmp_path / "two", weights=(3, 1), device="cpu")
    assert load_classifier(tmp_path / "two").shares == (0.75, 0.25)


@pytest.mark.parametrize("method", ["logistic", "svm"])
def test_a_rule_is_what_scikit_learn_fits(runs, tmp_path, make_folder, method):
    data = load_training_data(make_folder(count=16))
    # Some labels are wrong, so that no rule is right everywhere, and how sure it is can be told.
    labels = [("red",) if n % 5 == 0 else sample.labels for n, sample in enumerate(data.samples)]
    samples = (replace(sample, labels=label) for sample, label in zip(data.samples, labels, strict=True))
    train, val = split(replace(data, samples=tuple(samples)), 0.5, 0)
    out = tmp_path / "out"
    said = []
    metrics = make_ensemble(runs, out, method=method, train=train, val=val, device="cpu", say=said.append)
    assert said == []
    assert metrics["chosen_on"] == "the validation images scored here"
    ensemble = load_classifier(out)
    features, truth = [], [part.targets(ensemble.classes) for part in (train, val)]
    for part in (train, val):
        pictures = [read_image(sample.path) for sample in part.samples]
        features.append(np.hstack([features_of(member, pictures).features.numpy() for member in ensemble.members]))
    scaler = StandardScaler().fit(features[0])
    x, y = map(scaler.transform, features)
    probabilities = predict(ensemble, [read_image(sample.path) for sample in val.samples])
    if method == "logistic":
        oracle = LogisticRegression(C=metrics["C"], class_weight="balanced", max_iter=1000)
    else:
        oracle = LinearSVC(C=metrics["C"], class_weight="balanced", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = oracle.fit(x, truth[0]).decision_function(y)
    assert np.array_equal(probabilities.argmax(axis=1), oracle.predict(y))
    temperature = fit_temperature(scores[:, None] * [-0.5, 0.5], truth[1], False)
    assert temperature == pytest.approx(metrics["temperature"], rel=1e-2)
    assert abs(np.log(temperature)) > 0.1
    assert np.allclose(np.log(probabilities[:, 1] / probabilities[:, 0]), scores / temperature, atol=0.02)
    assert metrics["accuracy"] == pytest.approx((probabilities.argmax(axis=1) == truth[1]).mean())
    assert metrics == json.loads((out / "metrics.json").read_text())
    assert [list(one) for one in metrics["members"]] == [
        ["run", "share", "accuracy", "macro_f1", "expected_calibration_error"]
    ] * 2
    for one, member in zip(metrics["members"], ensemble.members, strict=True):
        right = [
            member.classes[row[0]] == sample.labels[0]
            for sample in val.samples
            for row in member.predicted(predict(member, [read_image(sample.path)]))
        ]
        assert one["accuracy"] == pytest.approx(np.mean(right))
    make_ensemble(runs, tmp_path / "again", method=method, train=train, val=val, device="cpu")
    assert tree(tmp_path / "again") == tree(out)


def test_a_rule_for_three_classes_and_for_independent_ones(make_classifier, tmp_path, make_images):
    names = ["cat", "dog", "none"] * 10
    for n, image in enumerate(make_images(*[(32, 32)] * 30)):
        if n % 4:  # most classes can be seen
            image[:16, :, n % 3] = 255
        write_image(tmp_path / f"images/{n}.png", image)
    for multi_label in (False, True):
        data = tmp_path / f"{multi_label}.csv"
        labels = [f"{name};cat" if multi_label and n % 4 == 1 else name for n, name in enumerate(names)]
        rows = [f"images/{n}.png,{label}" for n, label in enumerate(labels)]
        data.write_text("\n".join(["image,label", *rows]))
        paths = [tmp_path / f"{multi_label}{seed}" for seed in (0, 1)]
        for seed, path in enumerate(paths):
            make_classifier(seed=seed, multi_label=multi_label, image_size=32).save(path)
        train, val = split(load_training_data(data), 0.34, 0)
        for method in ("logistic", "svm"):
            out = tmp_path / f"{multi_label}-{method}"
            metrics = make_ensemble(paths, out, method=method, train=train, val=val, device="cpu")
            ensemble = load_classifier(out)
            assert ensemble.rule.coefficients.shape[0] == 3
            seen = predict(ensemble, [read_image(sample.path) for sample in val.samples])
            assert multi_label or np.allclose(seen.sum(axis=1), 1, atol=1e-6)
            truth = replace(val, multi_label=multi_label).targets(ensemble.classes)
            right = ((seen >= 0.5) == truth).all(axis=1) if multi_label else seen.argmax(axis=1) == truth
            assert metrics["accuracy"] == pytest.approx(right.mean())
            logits = np.log(seen / (1 - seen)) if multi_label else np.log(seen)
            assert metrics["temperature"] != 1
            assert fit_temperature(logits, truth, multi_label) == pytest.approx(1, abs=1e-3)  # nothing is left to do


@pytest.mark.parametrize("method", ["logistic", "svm"])
def test_a_rule_that_is_always_right_says_that_it_is_not_calibrated(runs, tmp_path, make_folder, method):
    train, val = split(load_training_data(make_folder(count=6)), 0.5, 0)
    said = []
    metrics = make_ensemble(runs, tmp_path / "out", method=method, train=train, val=val, device="cpu", say=said.append)
    assert (metrics["accuracy"], metrics["temperature"]) == (1, 1)
    assert said == ["6 validation images do not tell how sure to be (all right, or too few): the temperature stays 1"]


def test_images_that_some_member_cannot_read_are_left_out_for_all(make_classifier, tmp_path, make_images):
    for name, window in (("wide", "0,1000"), ("full", "full")):
        make_classifier(classes=["blue", "red"], image_size=32, window=window).save(tmp_path / name)
    runs = [tmp_path / name for name in ("wide", "full")]
    for n, image in enumerate(make_images(*[(32, 32)] * 12)):
        write_image(tmp_path / f"images/{('blue', 'red')[n % 2]}/{n:02}.png", image)
    good = split(load_training_data(tmp_path / "images"), 0.5, 0)
    parts = []
    for n, part in enumerate(good):
        # Outside 0 to 1 and without a range: the first member can read it, the second cannot.
        path = tmp_path / f"deep{n}.tiff"
        PilImage.fromarray(np.full((32, 32), 500, np.float32)).save(path)
        parts.append(replace(part, samples=(replace(part.samples[0], path=path, name="deep"), *part.samples)))
    for method in ("soft", "logistic"):
        wanted, found = (
            make_ensemble(runs, tmp_path / f"{method}{n}", method=method, train=train, val=val, device="cpu")
            for n, (train, val) in enumerate((good, parts))
        )
        assert set(found["failed"]) == {str(tmp_path / "deep1.tiff")} | (
            {str(tmp_path / "deep0.tiff")} if method == "logistic" else set()
        )
        assert found["val_images"] == 6
        assert found.get("train_images") == wanted.get("train_images")
        assert found["confusion"] == wanted["confusion"]
        for one, other in zip(found["members"], wanted["members"], strict=True):
            assert one == pytest.approx(other, abs=1e-4)
    with pytest.raises(DatasetError, match="none of 1 images can be read"):
        make_ensemble(runs, tmp_path / "out", val=replace(parts[1], samples=parts[1].samples[:1]), device="cpu")


def test_what_cannot_be_joined(runs, tmp_path, make_classifier, make_folder):
    out = tmp_path / "out"
    data = load_training_data(make_folder(count=4))
    for error, message, given in (
        (InputError, "at least two runs", {"runs": runs[:1]}),
        (InputError, "expected different runs", {"runs": [runs[0], runs[0]]}),
        (InputError, "expected the method soft, logistic, svm; got 'hard'", {"method": "hard"}),
        (InputError, "name them with --data", {"method": "svm"}),
        (InputError, "expected 2 weights", {"weights": (1.0,)}),
        (InputError, "not all 0", {"weights": (0.0, 0.0)}),
        (InputError, "with a finite sum; got .1e", {"weights": (1e308, 1e308)}),
        (InputError, "at least 0", {"weights": (1.0, float("nan"))}),
        (InputError, "equal or accuracy; got 'best'", {"weights": "best"}),
        (OutputError, "lies in the output folder", {"out": tmp_path}),
        (OutputError, "is a file", {"out": runs[0] / "metrics.json"}),
    ):
        with pytest.raises(error, match=message):
            make_ensemble(**{"runs": runs, "out": out, **given})
    assert not out.exists()
    one_class = replace(data, samples=data.samples[:4])
    with pytest.raises(DatasetError, match="4 of 4 training images show 'blue'; a rule needs"):
        make_ensemble(runs, out, method="svm", train=one_class, val=data, device="cpu")
    (runs[1] / "metrics.json").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        make_ensemble(runs, out, weights="accuracy", device="cpu")
    make_ensemble(runs, out, device="cpu")
    with pytest.raises(InputError, match="is an ensemble"):
        make_ensemble([runs[0], out], tmp_path / "nested", device="cpu")
    with pytest.raises(OutputError, match=r"holds a run, finished or not \(classifier.json\)"):
        make_ensemble(runs, out, device="cpu")
    make_ensemble(runs, out, method="logistic", train=data, val=data, device="cpu", overwrite=True)
    make_ensemble(runs, out, weights=(1, 3), device="cpu", overwrite=True)
    assert load_classifier(out).shares == (0.25, 0.75)
    assert not (out / "rule.safetensors").exists()
    assert not (out / "metrics.json").exists()


def test_nothing_of_an_earlier_run_stays(runs, tmp_path):
    make_ensemble(runs, tmp_path / "fresh", device="cpu")
    out = tmp_path / "out"
    (out / "members/7").mkdir(parents=True)
    for folder in (out, out / "members/7"):
        for name in (*RUN_FILES, "notes.txt"):
            (folder / name).write_text("earlier")
    before = tree(out)
    with pytest.raises(OutputError, match="holds a run"):
        make_ensemble(runs, out, device="cpu")
    assert tree(out) == before
    make_ensemble(runs, out, device="cpu", overwrite=True)
    own = dict.fromkeys(("notes.txt", "members/7/notes.txt"), b"earlier")
    assert tree(out) == {**tree(tmp_path / "fresh"), **own}
    # Only an ensemble of more members, as it was written, goes without a trace.
    make_ensemble([*runs, tmp_path / "fresh/members/1"], tmp_path / "three", device="cpu")
    make_ensemble(runs, tmp_path / "three", device="cpu", overwrite=True)
    assert not (tmp_path / "three/members/2").exists()
    # Killed while it was written, it is written again.
    (tmp_path / "three/classifier.json").unlink()
    make_ensemble(runs, tmp_path / "three", device="cpu")
    assert tree(tmp_path / "three") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("name", sorted({*RUN_FILES} - {"metrics.json", "confusion.png", "rule.safetensors"}))
def test_a_run_that_is_not_finished_is_not_written_over(runs, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"earlier")
    with pytest.raises(OutputError, match=name):
        make_ensemble(runs, tmp_path / "out", device="cpu")
    assert tree(tmp_path / "out") == {name: b"earlier"}


def test_the_command(runs, tmp_path, make_folder):
    data = make_folder(count=6)

    def call(*words, code=0):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == code, result.output
        return result

    out = tmp_path / "out"
    call("ensemble", *runs, "--out", out, "--data", data, "--dry-run", "--device", "cpu")
    assert not out.exists()
    shown = call("ensemble", *runs, "--out", out, "--data", data, "--weights", "2,1", "--device", "cpu").stdout
    assert "0.667" in shown
    assert "validation accuracy" in shown
    call("cams", data, "-c", out, "-o", tmp_path / "cams", "--device", "cpu", "--negative", "red")
    assert len(load_images(tmp_path / "cams").samples) == 12
    assert not read_levels(tmp_path / "cams/layercam/red/00.png").any()
    assert isinstance(call("layers", out, code=1).exception, InputError)
    again = call("ensemble", *runs, "--out", tmp_path / "soft", "--json", "--device", "cpu")
    assert json.loads(again.stdout)["members"] == [str(run) for run in runs]
    whole = call("ensemble", *runs, "--out", tmp_path / "val", "--val", data, "--json", "--device", "cpu")
    assert json.loads(whole.stdout)["val_images"] == 12


def test_members_that_learned_from_validation_images_are_named(tmp_path, make_folder):
    data = make_folder()
    changes = {"model": "test_resnet", "weights": "none", "image_size": 32, "epochs": 1, "test_fraction": 0.25}
    for seed in (0, 1):
        run = tmp_path / str(seed)
        plan = plan_training(data, changes={**changes, "seed": seed})
        run_training(prepare_training(plan, run), run, device="cpu")
        assert {path.name for path in run.iterdir()} <= set(RUN_FILES)

    def call(*words, code=0):
        words = ("ensemble", tmp_path / "0", tmp_path / "1", "--data", data, "--device", "cpu", "--overwrite", *words)
        result = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "out")])
        assert result.exit_code == code, result.output
        return result

    said = call("--test-fraction", 0.25).stderr
    assert f"{tmp_path / '0'} learned" not in said
    assert f"{tmp_path / '1'} learned from" in said
    assert f"{tmp_path / '0'} learned from" in call("--seed", 1).stderr
    assert isinstance(call("--val", data, code=1).exception, DatasetError)
