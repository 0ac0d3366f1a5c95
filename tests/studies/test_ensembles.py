"""Ensembles made of runs: members copied, rules as scikit-learn fits them, and what is refused."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as PilImage
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from typer.testing import CliRunner

from camseg.base.errors import CheckpointError, DatasetError, InputError, OutputError
from camseg.cams.capture import Network
from camseg.cams.predict import predict
from camseg.classify.checkpoint import RUN_FILES, load_classifier
from camseg.cli import app
from camseg.data.datasets import load_images, load_training_data
from camseg.data.images import read_image, read_levels, write_image
from camseg.data.splits import split
from camseg.label.chain import label_image
from camseg.label.settings import LabelSettings
from camseg.masks.consensus import centrality, pairwise_dice
from camseg.measure.calibration import fit_temperature
from camseg.refinement.settings import RefineSettings
from camseg.runs.run import RUN
from camseg.studies.ensembles import make_ensemble
from camseg.studies.settings import EnsembleSettings
from camseg.train.plan import plan_training, prepare_training, run_training


def features_of(member, images):
    return Network(classifier=member, layers=()).forward(member.preprocess(images), gradients=False, features=True)


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RUN
    }


@pytest.fixture
def runs(make_classifier, tmp_path):
    """Two runs over the classes of ``make_folder``; the second one has them in another order."""
    for n, classes in enumerate((["blue", "red"], ["red", "blue"])):
        make_classifier(seed=n, classes=classes, negative=["blue"], image_size=32).save(tmp_path / f"run{n}")
        (tmp_path / f"run{n}/metrics.json").write_text(json.dumps({"accuracy": (0.9, 0.6)[n]}))
    return [tmp_path / "run0", tmp_path / "run1"]


def test_members_are_copied_as_they_are(runs, tmp_path):
    assert make_ensemble(runs, tmp_path / "out", EnsembleSettings(weights="accuracy"), device="cpu") == {}
    made = tree(tmp_path / "out")
    assert set(made) == {"classifier.json"} | {
        f"members/{n}/{name}" for n in "01" for name in ("model.safetensors", "classifier.json")
    }
    for n, run in enumerate(runs):
        for name in ("model.safetensors", "classifier.json"):
            assert made[f"members/{n}/{name}"] == (run / name).read_bytes()
    assert load_classifier(tmp_path / "out").shares == pytest.approx((0.6, 0.4))
    make_ensemble(runs, tmp_path / "two", EnsembleSettings(weights=(3, 1)), device="cpu")
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
    metrics = make_ensemble(
        runs, out, EnsembleSettings(method=method), train=train, val=val, device="cpu", say=said.append
    )
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
    make_ensemble(runs, tmp_path / "again", EnsembleSettings(method=method), train=train, val=val, device="cpu")
    assert tree(tmp_path / "again") == tree(out)


@pytest.mark.parametrize("method", ["logistic", "svm"])
def test_a_rule_over_the_features_of_one_network(runs, tmp_path, make_folder, method):
    train, val = split(load_training_data(make_folder(count=12)), 0.5, 0)
    out, settings = tmp_path / "out", EnsembleSettings(method=method)
    metrics = make_ensemble(runs[:1], out, settings, train=train, val=val, device="cpu")
    ensemble = load_classifier(out)
    assert ensemble.shares == (1.0,)
    pictures = [read_image(sample.path) for sample in val.samples]
    features = features_of(ensemble.members[0], pictures).features
    assert ensemble.rule.coefficients.shape == (2, features.shape[1])
    expected = ensemble.rule.logits(features).softmax(dim=1).numpy()
    assert np.allclose(predict(ensemble, pictures), expected, atol=1e-5)
    assert metrics["accuracy"] == pytest.approx((expected.argmax(axis=1) == val.targets(ensemble.classes)).mean())
    with pytest.raises(InputError, match="at least two runs to join, got 1; one alone can be given a rule"):
        make_ensemble(runs[:1], tmp_path / "soft", device="cpu")


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
            metrics = make_ensemble(paths, out, EnsembleSettings(method=method), train=train, val=val, device="cpu")
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
    metrics = make_ensemble(
        runs, tmp_path / "out", EnsembleSettings(method=method), train=train, val=val, device="cpu", say=said.append
    )
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
            make_ensemble(
                runs, tmp_path / f"{method}{n}", EnsembleSettings(method=method), train=train, val=val, device="cpu"
            )
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
        (InputError, "name them with --data", {"settings": EnsembleSettings(method="svm")}),
        (InputError, "expected 2 weights", {"settings": EnsembleSettings(weights=(1.0,))}),
        (InputError, "not all 0", {"settings": EnsembleSettings(weights=(0.0, 0.0))}),
        (InputError, "with a finite sum; got .1e", {"settings": EnsembleSettings(weights=(1e308, 1e308))}),
        (OutputError, "lies in the output folder", {"out": tmp_path}),
        (OutputError, "is a file", {"out": runs[0] / "metrics.json"}),
    ):
        with pytest.raises(error, match=message):
            make_ensemble(**{"runs": runs, "out": out, **given})
    assert not out.exists()
    one_class = replace(data, samples=data.samples[:4])
    with pytest.raises(DatasetError, match="4 of 4 training images show 'blue'; a rule needs"):
        make_ensemble(runs, out, EnsembleSettings(method="svm"), train=one_class, val=data, device="cpu")
    (runs[1] / "metrics.json").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        make_ensemble(runs, out, EnsembleSettings(weights="accuracy"), device="cpu")
    make_ensemble(runs, out, device="cpu")
    with pytest.raises(InputError, match="is an ensemble"):
        make_ensemble([runs[0], out], tmp_path / "nested", device="cpu")
    with pytest.raises(OutputError, match=r"holds a run, finished or not \(classifier.json\)"):
        make_ensemble(runs, out, device="cpu")
    make_ensemble(runs, out, EnsembleSettings(method="logistic"), train=data, val=data, device="cpu", overwrite=True)
    make_ensemble(runs, out, EnsembleSettings(weights=(1, 3)), device="cpu", overwrite=True)
    assert load_classifier(out).shares == (0.25, 0.75)
    assert not (out / "rule.safetensors").exists()
    assert not (out / "metrics.json").exists()


@pytest.mark.parametrize(
    "settings", [{"method": "hard"}, {"weights": (1.0, float("nan"))}, {"weights": (1.0, -1.0)}, {"weights": "best"}]
)
def test_settings_are_checked(settings):
    with pytest.raises(InputError):
        EnsembleSettings(**settings)


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


@pytest.mark.parametrize("name", ["metrics.json", "history.csv", "training.safetensors"])
def test_members_that_wait_for_the_others_are_not_written_over(runs, tmp_path, name):
    (tmp_path / "out/members/0").mkdir(parents=True)
    (tmp_path / "out/members/0" / name).write_bytes(b"earlier")
    with pytest.raises(OutputError, match=f"members/0/{name}"):
        make_ensemble(runs, tmp_path / "out", device="cpu")
    assert tree(tmp_path / "out") == {f"members/0/{name}": b"earlier"}


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


def test_members_that_disagree_with_the_others_count_little(make_classifier, tmp_path, make_folder):
    places = []
    for number, seed in enumerate((0, 0, 5)):
        make_classifier(classes=["blue", "red"], seed=seed).save(tmp_path / str(number))
        places.append(tmp_path / str(number))
    data = load_training_data(make_folder(count=2))
    said = []
    settings = EnsembleSettings(weights="agreement")
    metrics = make_ensemble(places, tmp_path / "out", settings, val=data, device="cpu", say=said.append)
    shares = load_classifier(tmp_path / "out").shares
    assert shares[0] == pytest.approx(shares[1])
    assert shares[2] < 0.7 * shares[0]
    assert shares == pytest.approx([one["share"] for one in metrics["members"]])
    # By hand: masks before refinement, as label makes them.
    plain = LabelSettings(refinement=RefineSettings(method="none"))
    members = [load_classifier(place) for place in places]
    tables = []
    for sample in data.samples:
        image = read_image(sample.path)
        masks = [label_image(image, member, sample.labels[0], plain).mask for member in members]
        tables.append(centrality(pairwise_dice(masks)))
    expected = np.mean(tables, axis=0)
    assert said[-1] == "mean Dice of each member's masks with the others', over 4 maps: " + ", ".join(
        f"{one:.3f}" for one in expected
    )
    with pytest.raises(InputError, match="agreement is measured on images; name them with --data or --val"):
        make_ensemble(places, tmp_path / "other", settings, device="cpu")
