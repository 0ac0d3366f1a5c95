"""Ensembles: votes and maps against their members', rules against scikit-learn's, and the way through folders."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from camseg import compute_cams, label_folder, label_image
from camseg.base.errors import CheckpointError, InputError, LayerError, OutputError
from camseg.cams.capture import Network
from camseg.cams.predict import predict
from camseg.cams.settings import CamSettings
from camseg.classify.checkpoint import load_classifier, load_network
from camseg.classify.ensemble import Ensemble, LinearRule
from camseg.data.images import read_image, read_levels, write_image
from camseg.label.folder import cams_folder
from camseg.label.settings import LabelSettings
from camseg.propagation.settings import PropagateSettings
from camseg.runs.manifest import read_manifest
from camseg.runs.run import RUN
from camseg.runs.settings import FolderOptions

SIZES = [(40, 60), (64, 64), (30, 90)]
QUICK = LabelSettings(cams=CamSettings(score="auto", layers=("stages",)))


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
    assert again.run == str(tmp_path)
    assert [member.run for member in again.members] == [str(tmp_path / f"members/{number}") for number in (0, 1)]
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
    settings = replace(QUICK, propagation=PropagateSettings(method=propagation))
    out = tmp_path / "out"
    assert label_folder(images, ensemble, out, settings, batch_size=1).done == 4
    records = {record.name: record for record in read_manifest(out)}
    for name, record in records.items():
        image = read_image(images / f"{name}.png")
        labelled = label_image(image, ensemble, record.class_name, settings)
        assert np.array_equal(read_levels(out / f"masks/{name}.png") > 0, labelled.mask)
        probability = predict(ensemble, [image])[0, ensemble.class_index(record.class_name)]
        assert record.score == pytest.approx(float(probability), abs=2e-6)
    assert records["cat/a"].layer == "layer3,layer4;norm"
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
