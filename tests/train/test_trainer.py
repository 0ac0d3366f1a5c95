import csv
import json
import os
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from camseg.base.errors import CheckpointError, DatasetError, InputError, OutputError
from camseg.classify.checkpoint import load_classifier
from camseg.classify.classifier import Classifier
from camseg.data.datasets import load_training_data
from camseg.data.images import read_image
from camseg.data.settings import NONE, Augmentation
from camseg.data.splits import split
from camseg.measure.metrics import expected_calibration_error, reliability
from camseg.train import learner, report
from camseg.train.balance import class_weights, sampling_shares
from camseg.train.batches import Batches, EpochSampler, LoadedSet, loader
from camseg.train.classifier_learner import ClassifierLearner
from camseg.train.processes import Processes
from camseg.train.settings import TrainSettings
from camseg.train.trainer import train_classifier

FAST = TrainSettings(epochs=3, batch_size=8, learning_rate=2e-3, warmup_epochs=1, seed=3)
FILES = {
    "model.safetensors",
    "classifier.json",
    "metrics.json",
    "history.csv",
    "curves.png",
    "confusion.png",
    "reliability.png",
}


def create(dropout=0.0, **settings):
    torch.manual_seed(0)
    settings = {"classes": ["blue", "red"], "image_size": 32, "model_args": {"drop_rate": dropout}, **settings}
    return Classifier.create("test_resnet", **settings)


@pytest.fixture
def parts(make_folder):
    """Training and validation set, 18 and 6 images."""
    return split(load_training_data(make_folder()), 0.25, 0)


def history(run):
    with (run / "history.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


class Interrupt(Exception):
    """Stands for a kill."""


def test_a_run_learns_and_writes_its_files(parts, tmp_path):
    lines, titles = [], []

    def progress(items, total, title):
        titles.append((title, total))
        return iter(items)

    classifier = create()
    metrics = train_classifier(
        classifier, *parts, tmp_path / "run", replace(FAST, epochs=6), device="cpu", say=lines.append, progress=progress
    )
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert set(metrics) == {
        "images", "accuracy", "macro_f1", "classes", "confusion",
        "best_epoch", "epochs", "train_images", "val_images", "failed", "training",
        "temperature", "expected_calibration_error",
    }  # fmt: skip
    assert metrics["images"] == metrics["val_images"] == 6
    assert metrics["train_images"] == 18
    assert metrics["failed"] == {}
    assert metrics["training"]["seed"] == 3
    assert np.sum(metrics["confusion"]) == 6
    assert set(metrics["classes"]) == {"blue", "red"}
    assert metrics["accuracy"] == 1.0  # red and blue squares
    rows = history(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert list(rows[0]) == ["epoch", "learning_rate", "train_loss", "val_loss", "val_accuracy", "val_macro_f1"]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert max(rows, key=lambda row: (row["val_macro_f1"], -row["val_loss"]))["epoch"] == metrics["best_epoch"]
    assert (
        lines.pop() == "6 validation images do not tell how sure to be (all right, or too few): the temperature stays 1"
    )
    assert len(lines) == 6
    assert lines[0].startswith("epoch 1/6: loss ")
    assert titles[:2] == [("reading training images", 18), ("reading validation images", 6)]
    assert titles[2] == ("epoch 1/6", 3)
    for name in ("curves.png", "confusion.png"):
        assert read_image(tmp_path / "run" / name).std() > 0
    again = load_classifier(tmp_path / "run")
    assert replace(again, temperature=1.0).fingerprint() == classifier.fingerprint()
    assert not classifier.model.training
    assert all(parameter.requires_grad for parameter in classifier.model.parameters())


@pytest.fixture(scope="module")
def whole_run(make_folder, tmp_path_factory):
    """A run of FAST that nothing interrupted, with its data, and what it returned."""
    parts = split(load_training_data(make_folder()), 0.25, 0)
    run = tmp_path_factory.mktemp("run")
    return parts, run, train_classifier(create(dropout=0.3), *parts, run, FAST, device="cpu")


def in_an_epoch(epoch, monkeypatch):
    def progress(items, _total, title):
        for number, item in enumerate(items):
            if title == f"epoch {epoch}/3" and number == 1:
                raise Interrupt
            yield item

    return {"progress": progress}


def after_an_epoch(epoch, monkeypatch):
    def say(line):
        if line.startswith(f"epoch {epoch}/"):
            raise Interrupt

    return {"say": say}


def between_the_two_writes(epoch, monkeypatch):
    real, calls = learner.write_bytes, []

    def write(path, data):
        calls.append(path)
        if len(calls) == epoch:
            raise Interrupt
        real(path, data)

    monkeypatch.setattr(learner, "write_bytes", write)  # the state; the weights are written by the classifier
    return {}


def before_the_reports(epoch, monkeypatch):
    def fail(*_):
        raise Interrupt

    monkeypatch.setattr(report, "plot_history", fail)
    return {}


@pytest.mark.parametrize(
    ("interrupt", "epoch", "whole_epochs"),
    [
        (in_an_epoch, 1, 0),
        (in_an_epoch, 2, 1),
        (in_an_epoch, 3, 2),
        (after_an_epoch, 2, 1),
        (between_the_two_writes, 1, 0),
        (between_the_two_writes, 3, 2),
        (before_the_reports, 3, 3),
    ],
)
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    whole_run, tmp_path, monkeypatch, interrupt, epoch, whole_epochs
):
    parts, whole, wanted = whole_run
    with monkeypatch.context() as patch, pytest.raises(Interrupt):
        train_classifier(create(dropout=0.3), *parts, tmp_path, FAST, device="cpu", **interrupt(epoch, patch))
    assert not (tmp_path / "metrics.json").exists()
    (tmp_path / ".0a1b2c3d.tmp").write_bytes(b"what a kill in the middle of a write leaves")
    lines = []
    metrics = train_classifier(create(dropout=0.3), *parts, tmp_path, FAST, device="cpu", say=lines.append)
    assert metrics == wanted
    assert {path.name for path in tmp_path.iterdir()} == FILES
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name
    if whole_epochs:
        assert lines.pop(0) == f"continuing {tmp_path} after epoch {whole_epochs}"
    assert len(lines) == 3 - whole_epochs + 1  # the last on calibration


@pytest.mark.parametrize(
    "settings",
    [
        {"balance": "sampling", "optimizer": "adam", "weight_decay": 0.0, "averaging": 0.0},
        {"trainable": "last-stages", "plateau_patience": 1},
        {"trainable": "head", "plateau_patience": 0},
    ],
)
def test_every_kind_of_training_goes_on_where_it_was(parts, tmp_path, monkeypatch, settings):
    settings = replace(FAST, epochs=3, **settings)
    train_classifier(create(dropout=0.3), *parts, tmp_path / "whole", settings, device="cpu")
    with pytest.raises(Interrupt):
        train_classifier(
            create(dropout=0.3), *parts, tmp_path / "run", settings, device="cpu", **in_an_epoch(3, monkeypatch)
        )
    lines = []
    train_classifier(create(dropout=0.3), *parts, tmp_path / "run", settings, device="cpu", say=lines.append)
    assert lines[0].endswith("after epoch 2")
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_workers_and_memory_change_nothing(whole_run, tmp_path, monkeypatch):
    parts, whole, wanted = whole_run
    monkeypatch.setattr("camseg.train.batches._MEMORY", 0)  # images are read in every epoch
    metrics = train_classifier(create(dropout=0.3), *parts, tmp_path, replace(FAST, workers=2), device="cpu")
    assert metrics == {**wanted, "training": {**wanted["training"], "workers": 2}}
    for name in ("model.safetensors", "history.csv"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_a_finished_run_is_not_trained_again(parts, tmp_path):
    settings = replace(FAST, epochs=1, warmup_epochs=0)
    train_classifier(create(), *parts, tmp_path, settings, device="cpu")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(OutputError, match="finished run; choose another --out, or --overwrite"):
        train_classifier(create(), *parts, tmp_path, settings, device="cpu")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    train_classifier(create(), *parts, tmp_path, replace(settings, seed=9), device="cpu", overwrite=True)
    assert json.loads((tmp_path / "metrics.json").read_text())["training"]["seed"] == 9
    assert len(history(tmp_path)) == 1


def test_an_ensemble_is_not_trained_over(parts, tmp_path):
    (tmp_path / "members/0").mkdir(parents=True)  # one that joined runs without measuring them has no metrics
    (tmp_path / "rule.safetensors").touch()
    with pytest.raises(OutputError, match="holds a finished run"):
        train_classifier(create(), *parts, tmp_path, FAST, device="cpu")
    train_classifier(create(), *parts, tmp_path, replace(FAST, epochs=1), device="cpu", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_training_that_cannot_begin_overwrites_nothing(parts, tmp_path):
    train_classifier(create(), *parts, tmp_path, replace(FAST, epochs=1), device="cpu")
    before = (tmp_path / "metrics.json").read_bytes()
    for sample in parts[0].samples:
        sample.path.write_bytes(b"no image")
    with pytest.raises(DatasetError):
        train_classifier(create(), *parts, tmp_path, FAST, device="cpu", overwrite=True)
    assert (tmp_path / "metrics.json").read_bytes() == before


def test_a_training_that_fails_in_its_first_epoch_overwrites_nothing(parts, tmp_path):
    train_classifier(create(), *parts, tmp_path, replace(FAST, epochs=1), device="cpu")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    settings = replace(FAST, learning_rate=1e30, warmup_epochs=0)
    with pytest.raises(InputError, match="the loss became"):
        train_classifier(create(), *parts, tmp_path, settings, device="cpu", overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "segmenter.json").write_text("{}")  # a run of another kind goes as a whole
    train_classifier(create(), *parts, tmp_path, replace(FAST, epochs=1, seed=1), device="cpu", overwrite=True)
    assert not (tmp_path / "segmenter.json").exists()
    assert (tmp_path / "metrics.json").read_bytes() != before["metrics.json"]


def test_an_unfinished_run_is_not_mixed_with_another(parts, tmp_path, monkeypatch):
    train, val = parts
    with pytest.raises(Interrupt):
        train_classifier(create(), train, val, tmp_path, FAST, device="cpu", **in_an_epoch(2, monkeypatch))
    fewer = replace(train, samples=train.samples[1:])
    other_weights = create()
    with torch.no_grad():
        other_weights.model.fc.bias += 1
    for classifier, data, settings in (
        (other_weights, train, FAST),
        (create(), train, replace(FAST, learning_rate=1e-5)),
        (create(), train, replace(FAST, balance="none")),
        (create(), train, replace(FAST, augmentation=NONE)),
        (create(), fewer, FAST),
        (create(negative=["blue"]), train, FAST),
        (create(image_size=40), train, FAST),
    ):
        with pytest.raises(OutputError, match="unfinished run with other data or settings"):
            train_classifier(classifier, data, val, tmp_path, settings, device="cpu")
    state = (tmp_path / "training.safetensors").read_bytes()
    (tmp_path / "whole").write_bytes(state)
    (tmp_path / "training.safetensors").write_bytes(state[: len(state) // 2])
    with pytest.raises(CheckpointError, match=r"damaged training state.*--overwrite"):
        train_classifier(create(), train, val, tmp_path, FAST, device="cpu")
    with safe_open(whole := tmp_path / "whole", framework="pt") as file:
        facts, kept = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    kept.popitem()
    safetensors.torch.save_file(kept, tmp_path / "training.safetensors", facts)
    whole.unlink()
    with pytest.raises(CheckpointError, match=r"damaged training state.*--overwrite"):
        train_classifier(create(), train, val, tmp_path, FAST, device="cpu")
    train_classifier(create(), fewer, val, tmp_path, FAST, device="cpu", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} >= FILES
    assert not (tmp_path / "training.safetensors").exists()


def test_images_that_cannot_be_read_are_left_out_and_listed(make_folder, tmp_path):
    data = make_folder()
    train, val = split(load_training_data(data), 0.25, 0)
    bad = [train.samples[0].path, train.samples[5].path, val.samples[0].path]
    bad[0].write_bytes(b"")
    bad[1].write_text("text")
    bad[2].write_bytes(bad[2].read_bytes()[:100])
    if sys.platform == "linux":
        # A name that is no UTF-8, as Latin-1 names from old disks are.
        bad.append(data / "red" / os.fsdecode(b"caf\xe9.png"))
        bad[3].touch()
        odd = replace(train.samples[-1], path=bad[3], name="red/caf")
        train = replace(train, samples=(*train.samples, odd))
    metrics = train_classifier(create(), train, val, tmp_path / "run", replace(FAST, epochs=1), device="cpu")
    assert set(metrics["failed"]) == {str(path) for path in bad}
    assert "the file is empty" in metrics["failed"][str(bad[0])]
    assert json.loads((tmp_path / "run/metrics.json").read_text(encoding="utf-8"))["failed"] == metrics["failed"]
    assert (metrics["train_images"], metrics["val_images"]) == (16, 5)
    for sample in val.samples:
        sample.path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"none of 6 images can be read; the first: .*the file is empty"):
        train_classifier(create(), train, val, tmp_path / "other", FAST, device="cpu")


@pytest.fixture
def several(make_folder):
    """A multi-label set: red, blue, both by name only, and none."""
    data = make_folder(count=8)
    labels = ["blue", "red;blue", "", "red"]
    rows = [f"{path.relative_to(data)},{labels[i % 4]}" for i, path in enumerate(sorted(data.rglob("*.png")))]
    (data / "data.csv").write_text("image,label\n" + "\n".join(rows))
    return load_training_data(data / "data.csv")


def test_several_labels_per_image(several, tmp_path):
    train, val = split(several, 0.5, 0)
    classifier = create(multi_label=True)
    metrics = train_classifier(classifier, train, val, tmp_path / "a", replace(FAST, epochs=2), device="cpu")
    assert np.shape(metrics["confusion"]) == (2, 2, 2)
    assert np.sum(metrics["confusion"]) == 2 * 8
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES - {"confusion.png"}
    assert load_classifier(tmp_path / "a").multi_label
    # A validation set in which every image happens to have one label looks as if it had exclusive classes.
    ones = tuple(sample for sample in val.samples if len(sample.labels) == 1)
    one_each = replace(val, samples=ones, multi_label=False)
    metrics = train_classifier(
        create(multi_label=True), train, one_each, tmp_path / "b", replace(FAST, epochs=1), device="cpu"
    )
    assert metrics["val_images"] == len(ones) > 0


def test_labels_that_do_not_fit_the_classifier(parts, several, tmp_path):
    train, val = parts
    with pytest.raises(DatasetError, match="class 'red' is not one of blue, green"):
        train_classifier(create(classes=["blue", "green"]), train, val, tmp_path, FAST, device="cpu")
    for data in ((several, val), (train, several)):
        with pytest.raises(DatasetError, match="expected one label"):
            train_classifier(create(), *data, tmp_path, FAST, device="cpu")
    assert not list(tmp_path.glob("*.safetensors"))


def test_class_weights(make_classifier):
    single, multi = make_classifier(), make_classifier(multi_label=True)
    # 6 images: 3, 2, 1 of each of 3 classes -> 6 / (3 * count)
    assert class_weights(np.array([0, 0, 0, 1, 1, 2]), single).tolist() == pytest.approx([2 / 3, 1, 2])
    assert class_weights(np.array([0, 0, 1, 1]), single)[:2].tolist() == pytest.approx([2 / 3, 2 / 3])
    present = np.zeros((100, 3), np.float32)
    present[:20, 0] = present[:1, 1] = present[:99, 2] = 1
    # absent / present: 80 / 20, 99 / 1 cut to 10, 1 / 99 raised to 0.1
    assert class_weights(present, multi).tolist() == pytest.approx([4, 10, 0.1])


def test_sampling_draws_every_class_equally_often():
    single = sampling_shares(np.array([0, 0, 0, 1, 1, 3]))
    assert single == pytest.approx(np.array([1 / 9, 1 / 9, 1 / 9, 1 / 6, 1 / 6, 1 / 3]))
    # Labels a, a and b, none, a: the rarest label of each counts 1/3, 1, 1, 1/3.
    several = sampling_shares(np.array([[1, 0], [1, 1], [0, 0], [1, 0]], np.float32))
    assert several == pytest.approx(np.array([1, 3, 3, 1]) / 8)
    sampler = EpochSampler(6, Batches(size=100, seed=0, workers=0), Processes(), single)
    drawn = []
    for sampler.epoch in range(500):
        drawn += [index for _, index, _ in sampler]
    assert len(drawn) == 500 * 6
    assert np.bincount(drawn) / len(drawn) == pytest.approx(single, abs=0.02)
    assert list(sampler) == list(sampler)


def test_an_image_that_is_drawn_again_is_augmented_in_another_way(parts):
    train, _ = parts
    classifier = create()
    source = LoadedSet(train, None)
    shares = np.array([1.0, *[0.0] * (len(train.samples) - 1)])
    batches = Batches(size=100, seed=0, workers=0)
    sampler = EpochSampler(len(train.samples), batches, Processes(), shares)
    assert list(sampler) == [(0, 0, turn) for turn in range(len(train.samples))]
    ((squares, _),) = loader(classifier, source, batches, sampler, Augmentation())
    assert len(np.unique(squares.numpy().reshape(len(squares), -1), axis=0)) == len(squares)
    # The first time is what it would be in a set that is gone through once.
    ((once, _),) = loader(classifier, source, batches, [(0, 0)], Augmentation())
    assert torch.equal(squares[0], once[0])


def test_averages_move_nearly_all_the_way_at_first():
    move = learner._decaying(0.5)
    averages, values = [torch.zeros(1), torch.ones(1)], [torch.full((1,), 11.0), torch.ones(1)]
    move(averages, values, torch.tensor(1))  # a decay of 1 / 11
    assert [float(average) for average in averages] == pytest.approx([10, 1])
    move(averages, values, 20)  # 20 / 30 would be more than the most
    assert float(averages[0]) == pytest.approx(10.5)
    counts = [torch.tensor(3)]
    move(counts, [torch.tensor(8)], 5)
    assert counts == [torch.tensor(8)]


@pytest.mark.parametrize("weighted", [True, False])
def test_the_loss_weighs_classes_by_the_training_set(parts, tmp_path, weighted):
    train, val = parts
    rare = tuple(sample for sample in train.samples if sample.labels == ("blue",))[:3]
    train = replace(train, samples=(*rare, *[sample for sample in train.samples if sample.labels == ("red",)]))
    torch.manual_seed(0)
    classifier = Classifier.create("test_convnext", classes=["blue", "red"], image_size=32)  # no running statistics
    settings = replace(FAST, epochs=1, learning_rate=1e-12, balance="weights" if weighted else "none")
    train_classifier(classifier, train, val, tmp_path, settings, device="cpu")
    with torch.inference_mode():
        logits = classifier.model(classifier.preprocess([read_image(sample.path) for sample in val.samples]))
    truth = val.targets(["blue", "red"])
    losses = -logits.log_softmax(dim=1).numpy()[np.arange(len(truth)), truth]
    weights = np.array([12 / (2 * 3), 12 / (2 * 9)])[truth] if weighted else np.ones(len(truth))
    assert history(tmp_path)[0]["val_loss"] == pytest.approx((weights * losses).sum() / weights.sum(), rel=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_smoothed_labels_teach_but_do_not_examine(parts, tmp_path, multi_label):
    train, val = (replace(part, multi_label=multi_label) for part in parts)
    torch.manual_seed(0)
    classifier = Classifier.create(
        "test_convnext", classes=["blue", "red"], image_size=32, multi_label=multi_label
    )  # no running statistics
    settings = replace(FAST, epochs=1, learning_rate=1e-12, balance="none", batch_size=18, augmentation=NONE)
    train_classifier(classifier, train, val, tmp_path, replace(settings, label_smoothing=0.2), device="cpu")
    found = {}
    for key, part, share in (("train_loss", train, 0.2), ("val_loss", val, 0.0)):
        with torch.inference_mode():
            logits = classifier.model(classifier.preprocess([read_image(sample.path) for sample in part.samples]))
        truth = np.array([[label in sample.labels for label in ("blue", "red")] for sample in part.samples], float)
        wanted = truth * (1 - share) + share / 2  # of two classes, or of yes and no
        if multi_label:
            odds = logits.sigmoid().numpy()
            losses = -(wanted * np.log(odds) + (1 - wanted) * np.log(1 - odds)).mean(axis=1)
        else:
            losses = -(wanted * logits.log_softmax(dim=1).numpy()).sum(axis=1)
        found[key] = losses.mean()
    (row,) = history(tmp_path)
    assert {key: row[key] for key in found} == pytest.approx(found, rel=1e-4)


def test_the_warm_up_trains_the_head_alone(parts, tmp_path, monkeypatch):
    classifier = create()
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}

    def changed():
        state = classifier.model.state_dict()
        return {name for name, value in state.items() if not torch.equal(value, before[name])}

    seen = []
    settings = replace(FAST, epochs=3, warmup_epochs=2)
    train_classifier(classifier, *parts, tmp_path, settings, device="cpu", say=lambda _: seen.append(changed()))
    assert seen[0] == seen[1] == {"fc.weight", "fc.bias"}
    assert {"layer1.0.conv1.weight", "bn1.running_mean", "bn1.num_batches_tracked", "fc.weight"} <= seen[2]


@pytest.mark.parametrize(("trainable", "first"), [("head", "fc.weight"), ("last-stages", "layer2.0.conv1.weight")])
def test_what_learns_after_the_warm_up(parts, tmp_path, trainable, first):
    classifier = create()
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    train_classifier(classifier, *parts, tmp_path, replace(FAST, trainable=trainable), device="cpu")
    state = classifier.model.state_dict()
    changed = [name for name, value in state.items() if not torch.equal(value, before[name])]
    assert changed[0] == first
    assert changed == list(state)[list(state).index(first) :]


def test_the_run_is_calibrated_on_the_validation_images(make_folder, tmp_path):
    train, val = split(load_training_data(make_folder()), 0.5, 0)
    wrong = replace(val.samples[0], labels=("red" if val.samples[0].labels == ("blue",) else "blue",))
    val = replace(val, samples=(wrong, *val.samples[1:]))
    classifier = create()
    metrics = train_classifier(classifier, train, val, tmp_path, replace(FAST, epochs=8), device="cpu", test=train)
    run = load_classifier(tmp_path)
    with torch.inference_mode():
        logits = classifier.model(classifier.preprocess([read_image(sample.path) for sample in val.samples]))
    truth = torch.from_numpy(val.targets(["blue", "red"]))
    assert run.temperature == metrics["temperature"] != 1
    losses = [
        float(torch.nn.functional.cross_entropy(logits / (run.temperature * factor), truth))
        for factor in (0.99, 1, 1.01)
    ]
    assert losses[1] == min(losses)
    for name, one in (("uncalibrated", classifier), ("calibrated", run)):
        table = reliability(truth.numpy(), one.probabilities(logits).numpy(), False)
        assert metrics["expected_calibration_error"][name] == pytest.approx(expected_calibration_error(table), abs=1e-6)
    assert metrics["test"]["images"] == len(train.samples)
    assert 0 <= metrics["test"]["expected_calibration_error"] < 1


def test_the_run_says_how_it_was_trained(whole_run):
    _, run, _ = whole_run
    record = load_classifier(run).training
    assert record == {
        "settings": json.loads(json.dumps(asdict(FAST))),
        "start_sha256": create(dropout=0.3).fingerprint(),
    }


def test_a_warm_up_leaves_at_least_one_epoch_to_the_backbone(parts, tmp_path):
    classifier = create()
    before = classifier.model.conv1[0].weight.detach().clone()
    said = []
    settings = replace(FAST, epochs=1, warmup_epochs=5)
    metrics = train_classifier(classifier, *parts, tmp_path / "run", settings, device="cpu", say=said.append)
    assert not torch.equal(classifier.model.conv1[0].weight, before)
    # What was done is recorded, not what was asked for.
    assert said[0].startswith("the warm-up takes 0 epochs, not 5")
    assert metrics["training"]["warmup_epochs"] == 0
    assert load_classifier(tmp_path / "run").training["settings"]["warmup_epochs"] == 0


def test_a_folder_that_cannot_be_made_is_noticed_before_any_image_is_read(parts, tmp_path):
    (tmp_path / "file").touch()
    titles = []

    def progress(items, _total, title):
        titles.append(title)
        return iter(items)

    with pytest.raises(OutputError, match=r"cannot write to .*file/run: .*file is a file, no folder"):
        train_classifier(create(), *parts, tmp_path / "file/run", FAST, device="cpu", progress=progress)
    assert titles == []


@pytest.mark.parametrize(("warmup", "patience", "epochs"), [(0, 2, 4), (4, 2, 7), (0, 0, 9)])
def test_training_stops_when_patience_runs_out(parts, tmp_path, monkeypatch, warmup, patience, epochs):
    monkeypatch.setattr(ClassifierLearner, "validate", lambda _: (torch.zeros(6, 2), 1.0))
    settings = replace(FAST, epochs=9, warmup_epochs=warmup, patience=patience)
    metrics = train_classifier(create(), *parts, tmp_path, settings, device="cpu")
    assert metrics["best_epoch"] == 1
    assert metrics["epochs"] == len(history(tmp_path)) == epochs


def test_the_rate_falls_on_a_plateau(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(ClassifierLearner, "validate", lambda _: (torch.zeros(6, 2), 1.0))
    settings = replace(FAST, epochs=6, learning_rate=1e-3, plateau_patience=1, patience=0, warmup_epochs=0)
    train_classifier(create(), *parts, tmp_path, settings, device="cpu")
    rates = [row["learning_rate"] for row in history(tmp_path)]
    # The first epoch is the best; one without progress is borne, after the second the rate falls.
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 2.5e-4, 2.5e-4, 6.25e-5])


def test_a_last_batch_of_one_image_is_left_out(parts, tmp_path):
    train, val = parts
    totals = []

    def progress(items, total, title):
        totals.append((title, total))
        return iter(items)

    one_more = replace(train, samples=train.samples[:17])
    settings = replace(FAST, epochs=1, batch_size=8)
    metrics = train_classifier(create(), one_more, val, tmp_path, settings, device="cpu", progress=progress)
    assert totals[2] == ("epoch 1/1", 2)
    assert metrics["train_images"] == 17


def test_a_loss_that_explodes_is_reported(parts, tmp_path):
    settings = replace(FAST, learning_rate=1e30, warmup_epochs=0)
    with pytest.raises(InputError, match=r"the loss became .*lower --learning-rate"):
        train_classifier(create(), *parts, tmp_path, settings, device="cpu")


def test_half_precision_on_the_cpu(parts, tmp_path):
    settings = replace(FAST, mixed_precision="bf16")
    metrics = train_classifier(create(), *parts, tmp_path, settings, device="cpu")
    assert np.isfinite([row["train_loss"] for row in history(tmp_path)]).all()
    assert metrics["epochs"] == 3
    assert {value.dtype for value in load_classifier(tmp_path).model.parameters()} == {torch.float32}


def test_a_rate_that_never_falls(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(ClassifierLearner, "validate", lambda _: (torch.zeros(6, 2), 1.0))
    settings = replace(FAST, epochs=6, plateau_patience=0, patience=0, warmup_epochs=0)
    train_classifier(create(), *parts, tmp_path, settings, device="cpu")
    assert {row["learning_rate"] for row in history(tmp_path)} == {FAST.learning_rate}


@pytest.mark.parametrize(
    "setting",
    [
        {"weight_decay": -1.0},
        {"optimizer": "sgd"},
        {"trainable": "tail"},
        {"balance": "yes"},
        {"epochs": 0},
        {"batch_size": 0},
        {"warmup_epochs": -1},
        {"plateau_patience": -1},
        {"patience": -1},
        {"workers": -1},
        {"seed": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"mixed_precision": "fp8"},
    ],
)
def test_settings_that_cannot_be(setting):
    with pytest.raises(InputError, match="expected"):
        TrainSettings(**setting)
