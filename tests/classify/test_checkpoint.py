import json
from dataclasses import replace

import pytest
import safetensors.torch
import timm
import torch

import camseg
from camseg.base.errors import CheckpointError, InputError
from camseg.classify.checkpoint import load_classifier
from camseg.models.building import create_model


@pytest.mark.parametrize("arch", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit"])
def test_saved_and_loaded_classifiers_say_the_same(tmp_path, make_classifier, make_images, arch):
    classifier = make_classifier(
        arch,
        classes=["a", "ü b"],
        negative=["ü b"],
        resize="pad",
        window="10,200",
        mean=[0.4],
        model_args={"drop_rate": 0.3},
    )
    x = classifier.preprocess(make_images((40, 70), (64, 64)))
    classifier.save(tmp_path / "run")
    again = load_classifier(tmp_path / "run")
    assert torch.equal(again.model(x), classifier.model(x))
    assert again.fingerprint() == classifier.fingerprint()
    for name in ("arch", "model_args", "classes", "multi_label", "negative", "image_size", "resize", "window"):
        assert getattr(again, name) == getattr(classifier, name), name
    assert (again.mean, again.std) == (classifier.mean, classifier.std)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["classifier.json", "model.safetensors"]
    assert json.loads((tmp_path / "run/classifier.json").read_text(encoding="utf-8"))["version"] == camseg.__version__
    before = (tmp_path / "run/model.safetensors").read_bytes()
    again.save(tmp_path / "run")
    assert (tmp_path / "run/model.safetensors").read_bytes() == before


def test_networks_with_tied_weights_can_be_saved(tmp_path, make_classifier, make_images):
    classifier = make_classifier("coat_tiny")
    assert classifier.model.cpe1.proj.weight is classifier.model.serial_blocks1[0].cpe.proj.weight
    classifier.save(tmp_path / "run")
    x = classifier.preprocess(make_images((40, 70)))
    assert torch.equal(load_classifier(tmp_path / "run").model(x), classifier.model(x))


def test_runs_that_state_no_input_size_still_load(tmp_path, make_classifier, make_images):
    own = timm.models.get_pretrained_cfg("test_vit").input_size[-1]
    classifier = replace(make_classifier("test_vit", image_size=own), model_args={})
    classifier.save(tmp_path / "run")
    again = load_classifier(tmp_path / "run")
    x = classifier.preprocess(make_images((50, 70)))
    assert again.model_args == {}
    assert torch.equal(again.model(x), classifier.model(x))


def test_runs_from_before_there_was_a_temperature_still_load(tmp_path, make_classifier):
    classifier = make_classifier()
    classifier.save(tmp_path)
    settings = json.loads((tmp_path / "classifier.json").read_text())
    del settings["temperature"], settings["training"]
    (tmp_path / "classifier.json").write_text(json.dumps(settings))
    again = load_classifier(tmp_path)
    assert (again.temperature, again.training) == (1.0, None)
    assert again.fingerprint() == classifier.fingerprint()


def test_where_it_came_from_is_kept_but_is_no_part_of_it(tmp_path, make_classifier):
    classifier = make_classifier()
    told = replace(classifier, training={"recipe": "default"})
    told.save(tmp_path)
    assert load_classifier(tmp_path).training == {"recipe": "default"}
    assert told.fingerprint() == classifier.fingerprint()


def test_a_classifier_knows_the_folder_that_it_was_loaded_from(tmp_path, make_classifier, monkeypatch):
    classifier = make_classifier("resnet10t")
    classifier.save(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    again = load_classifier("run")
    assert (classifier.run, again.run) == (None, str(tmp_path / "run"))
    assert again.with_negative(["cat"]).run == again.with_output_stride(16).run == again.run
    assert again.fingerprint() == classifier.fingerprint()
    again.save(tmp_path / "other")
    for name in ("classifier.json", "model.safetensors"):
        assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_a_device_that_is_not_there(tmp_path, make_classifier):
    make_classifier().save(tmp_path)
    with pytest.raises(InputError, match="cannot be used here"):
        load_classifier(tmp_path, device="cuda:99")


def test_damaged_runs(tmp_path, make_classifier):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_classifier(tmp_path / "missing")
    run = tmp_path / "run"
    classifier = make_classifier()
    classifier.save(run)
    settings = json.loads((run / "classifier.json").read_text())
    weights = (run / "model.safetensors").read_bytes()

    def damage(name, content, message):
        kept = (run / name).read_bytes()
        if content is None:
            (run / name).unlink()
        else:
            (run / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with pytest.raises(CheckpointError, match=message) as caught:
            load_classifier(run)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        (run / name).write_bytes(kept)

    damage("classifier.json", None, "cannot be read")
    damage("classifier.json", b"{", "not valid JSON")
    for nonsense in ([], "text", 3, {}, {**settings, "surprise": 1}, {**settings, "classes": 3}):
        damage("classifier.json", nonsense, "is not a classifier's settings")
    damage("classifier.json", {**settings, "temperature": 0.0}, "temperature above 0, got 0.0")
    for name, value, message in (
        ("temperature", "warm", "temperature above 0, got 'warm'"),
        ("image_size", "x", "image size of at least 1 pixels, at most 16384; got 'x'"),
        ("image_size", 0, "image size of at least 1 pixels, at most 16384; got 0"),
        ("resize", "q", "resize stretch or pad, got 'q'"),
        ("window", "x", "window full, percentile or LOW,HIGH; got 'x'"),
        ("image_size", 10**30, "at most 16384"),
        ("image_size", True, "image size of at least 1"),
        ("mean", ["x"] * 3, "one or three numbers for mean"),
        ("std", [1], "std as three numbers"),
        ("model_args", "x", "is not a classifier's settings"),
        ("model_args", None, "model_args by name"),
        ("training", 7, "training by name"),
        ("multi_label", "no", "multi_label true or false"),
        ("negative", ["bird"], "negative class 'bird'"),
    ):
        damage("classifier.json", {**settings, name: value}, message)
    damage("classifier.json", {**settings, "arch": "resnet1"}, "no model 'resnet1'")
    damage("classifier.json", {**settings, "model_args": {"x": 1}}, "cannot be built")
    damage("model.safetensors", None, "cannot be loaded")
    damage("model.safetensors", b"", "cannot be loaded")
    damage("model.safetensors", weights[:-100], "cannot be loaded")
    damage(
        "model.safetensors",
        safetensors.torch.save(create_model("test_resnet", 7).state_dict()),
        "size mismatch for fc.weight",
    )
    assert load_classifier(run).fingerprint() == classifier.fingerprint()
