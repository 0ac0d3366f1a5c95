"""Features of a frozen backbone: computed once, and the head learns from them as from the images."""

from dataclasses import replace

import pytest
import torch

from camseg.base.errors import InputError
from camseg.classify.classifier import Classifier
from camseg.data.datasets import load_training_data
from camseg.data.settings import NONE, Augmentation
from camseg.data.splits import split
from camseg.train import features
from camseg.train.features import FeatureCache
from camseg.train.settings import TrainSettings
from camseg.train.trainer import train_classifier

HEAD = TrainSettings(
    epochs=3, batch_size=8, learning_rate=0.1, warmup_epochs=0, trainable="head", augmentation=NONE, feature_views=1
)


def create(arch="test_resnet+lse", **settings):
    torch.manual_seed(0)
    return Classifier.create(arch, classes=["blue", "red"], negative=("blue",), image_size=32, **settings)


@pytest.fixture
def parts(make_folder):
    return split(load_training_data(make_folder()), 0.25, 0)


def weights(classifier):
    return {name: value.clone() for name, value in classifier.model.state_dict().items()}


def train(parts, out, settings, cache=None, classifier=None):
    classifier = classifier or create()
    metrics = train_classifier(classifier, *parts, out, settings, device="cpu", cache=cache)
    return weights(classifier), metrics


@pytest.mark.parametrize("arch", ["test_resnet+lse", "test_resnet", "test_resnet+mab"])
def test_the_head_learns_as_from_images(parts, tmp_path, arch):
    kept, _ = train(parts, tmp_path / "kept", HEAD, classifier=create(arch))
    anew, _ = train(parts, tmp_path / "anew", replace(HEAD, feature_views=0), classifier=create(arch))
    before = weights(create(arch))
    changed = [name for name in kept if not torch.equal(kept[name], before[name])]
    assert changed  # the head, and nothing else
    assert all(name.startswith(("lse.", "mab.", "backbone.fc", "fc.")) for name in changed)
    for name, value in anew.items():  # features are kept in half precision
        torch.testing.assert_close(kept[name].float(), value.float(), rtol=0.02, atol=0.02)


def test_each_view_is_computed_once(parts, tmp_path):
    cache = FeatureCache()
    settings = replace(HEAD, feature_views=3, augmentation=Augmentation(mirror=False))
    first, _ = train(parts, tmp_path / "a", settings, cache)
    images = [len(part.samples) for part in parts]
    assert len(cache.kept) == 3 * images[0] + images[1]  # validation images as they are
    views = {view: one for (_, path, view), one in cache.kept.items() if path == str(parts[0].samples[0].path)}
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[1], views[2])
    untouched = dict(cache.kept)
    second, _ = train(parts, tmp_path / "b", settings, cache)
    assert all(cache.kept[key] is one for key, one in untouched.items())
    assert len(cache.kept) == len(untouched)
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.manual_seed(1)
    other = Classifier.create("test_resnet+lse", classes=["blue", "red"], negative=("blue",), image_size=32)
    train(parts, tmp_path / "c", settings, cache, other)
    assert len(cache.kept) == 2 * len(untouched)  # another backbone has features of its own


def test_an_interrupted_training_ends_as_a_whole_one(parts, tmp_path):
    class Interrupt(Exception):
        pass

    def stop(line):
        if line.startswith("epoch 2/3"):
            raise Interrupt

    whole, _ = train(parts, tmp_path / "whole", HEAD)
    with pytest.raises(Interrupt):
        train_classifier(create(), *parts, tmp_path / "cut", HEAD, device="cpu", say=stop)
    cut, _ = train(parts, tmp_path / "cut", HEAD)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_the_last_epoch_may_be_kept(parts, tmp_path):
    _, metrics = train(parts, tmp_path, replace(HEAD, keep="last"))
    assert metrics["best_epoch"] == metrics["epochs"] == 3


def test_features_that_cannot_be_kept(parts, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="while the head learns alone; got --trainable all"):
        train(parts, tmp_path / "a", replace(HEAD, trainable="all"))
    with pytest.raises(InputError, match="sbr reads the image"):
        train(parts, tmp_path / "b", HEAD, classifier=create("test_resnet+sbr"))
    monkeypatch.setattr(features, "_MOST", 1000)
    with pytest.raises(InputError, match="lower --feature-views or --image-size"):
        train(parts, tmp_path / "c", HEAD)
