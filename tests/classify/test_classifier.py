import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from camseg.base.errors import CheckpointError, InputError, WeightsUnavailableError
from camseg.classify.checkpoint import load_classifier
from camseg.classify.classifier import Classifier
from camseg.classify.ensemble import Ensemble
from camseg.models.building import create_model, normalisation
from camseg.models.names import DEFAULT_ARCH
from camseg.models.weights import head_parameters, read_weights

WEIGHTS = Path(__file__).parents[3] / "shared/weights/mobilenetv2_100_imagenet.safetensors"
ARCH = "test_resnet"


def backbone(classes=5, arch=ARCH, seed=1, **model_args):
    """Plain weights, as a file from elsewhere would hold them."""
    torch.manual_seed(seed)
    model = create_model(arch, classes, model_args=model_args)
    with torch.no_grad():
        for parameter in head_parameters(model):
            parameter.uniform_(-1, 1)
    return model.state_dict()


def same_backbone(classifier, state):
    own = classifier.model.state_dict()
    return all(torch.equal(own[name], state[name].float()) for name in own if not name.startswith("fc."))


def test_create_states_what_it_made():
    classifier = Classifier.create(ARCH, classes=["b", "a"], negative=["a"], image_size=48)
    assert classifier.classes == ("b", "a")
    assert (classifier.mean, classifier.std) == normalisation(classifier.model)
    assert not classifier.model.training
    assert classifier.device == torch.device("cpu")
    assert classifier.class_index("a") == 1
    with pytest.raises(InputError, match="no class 'c'; it has b, a"):
        classifier.class_index("c")
    changed = Classifier.create(ARCH, classes=["a"], mean=[0.5], std=[0.1, 0.2, 0.3], multi_label=True)
    assert (changed.mean, changed.std) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch": "mobilnetv2_10"}, "no model 'mobilnetv2_10'; near it are .*mobilenetv2_100"),
        ({"arch": "zzzzzz"}, "has no model 'zzzzzz'$"),
        ({"classes": []}, "different class names"),
        ({"classes": ["a", "a"]}, "different class names"),
        ({"classes": "ab"}, "different class names"),
        ({"classes": [0, 1]}, "different class names"),
        ({"classes": ["a", "b/c"]}, "class name 'b/c'"),
        ({"classes": ["a", ".."]}, "class name '..'"),
        ({"classes": ["a", "b;c"]}, "class name 'b;c'"),
        ({"classes": ["a", ""]}, "class name ''"),
        ({"negative": ["c"]}, "negative class 'c' is not one of a, b"),
        ({"image_size": 7}, "at least 8"),
        ({"resize": "crop"}, "stretch or pad, got 'crop'"),
        ({"mean": [0.1, 0.2]}, "one or three numbers for mean"),
        ({"std": [0.1, 0.0, 0.2]}, "one or three numbers for std, above 0"),
        ({"model_args": {"no_such_argument": 1}}, "cannot be built with .*no_such_argument"),
    ],
)
def test_what_cannot_be_created(settings, message):
    with pytest.raises(InputError, match=message):
        Classifier.create(**{"arch": ARCH, "classes": ["a", "b"], **settings})


def test_the_fingerprint_follows_weights_and_settings(make_classifier):
    classifier = make_classifier()
    known = {classifier.fingerprint()}
    assert make_classifier().fingerprint() in known
    settings = {
        "classes": ("cat", "dog", "no"),
        "negative": ("none",),
        "resize": "pad",
        "image_size": 65,
        "std": (1.0,) * 3,
    }
    for name, value in settings.items():
        changed = replace(classifier, **{name: value}).fingerprint()
        assert changed not in known, name
        known.add(changed)
    with torch.no_grad():
        classifier.model.layer1[0].bn1.running_mean[0] += 1e-6
    assert classifier.fingerprint() not in known


def test_weights_of_a_safetensors_file(tmp_path):
    state = {name: value.half() if value.is_floating_point() else value for name, value in backbone().items()}
    metadata = {"arch": ARCH, "mean": "0.1,0.2,0.3", "std": "0.4,0.5,0.6"}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors", metadata)
    for arch in (ARCH, None):
        classifier = Classifier.create(arch, classes=["a", "b"], weights=tmp_path / "w.safetensors")
        assert same_backbone(classifier, state)
        assert {value.dtype for value in classifier.model.parameters()} == {torch.float32}
        assert (classifier.mean, classifier.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    stated = Classifier.create(ARCH, classes=["a", "b"], weights=str(tmp_path / "w.safetensors"), mean=[0.7])
    assert (stated.mean, stated.std) == ((0.7, 0.7, 0.7), (0.4, 0.5, 0.6))
    with pytest.raises(InputError, match=f"holds weights of {ARCH}, not of test_convnext"):
        Classifier.create("test_convnext", classes=["a", "b"], weights=tmp_path / "w.safetensors")


def test_arguments_of_the_architecture_come_from_the_file(tmp_path):
    arch = "test_efficientnet"
    safetensors.torch.save_file(backbone(arch=arch), tmp_path / "w.safetensors", {"arch": arch, "pad_type": "same"})
    classifier = Classifier.create(None, classes=["a", "b"], weights=tmp_path / "w.safetensors")
    assert classifier.model_args == {"pad_type": "same"}
    x = torch.rand(1, 3, 40, 40)
    assert not torch.equal(
        classifier.model.conv_stem(x), create_model(arch, 2).requires_grad_(False).eval().conv_stem(x)
    )
    own = Classifier.create(arch, classes=["a", "b"], weights=tmp_path / "w.safetensors", model_args={"pad_type": ""})
    assert own.model_args == {"pad_type": ""}


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_weights_of_a_pytorch_file(tmp_path, wrap):
    state = backbone()
    named = {f"module.{name}": value for name, value in state.items()}
    torch.save({wrap: named, "epoch": 3} if wrap else named, tmp_path / "w.pth")
    classifier = Classifier.create(ARCH, classes=["a", "b"], weights=tmp_path / "w.pth")
    assert same_backbone(classifier, state)


class Exploit:
    """Runs a command when an unguarded pickle loads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_is_not_run(tmp_path):
    exploit = Exploit(tmp_path / "exploited")
    torch.save({"fc.weight": torch.zeros(1), "x": exploit}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"x": exploit}))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match=f"{name}: damaged, or holds more than tensors"):
            Classifier.create(ARCH, classes=["a", "b"], weights=tmp_path / name)
    assert not (tmp_path / "exploited").exists()
    pickle.loads((tmp_path / "plain.pth").read_bytes())  # it does work
    assert (tmp_path / "exploited").exists()


def test_weights_files_that_cannot_be_read(tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "folder.pth").mkdir()
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a": {"b": torch.zeros(1)}}, tmp_path / "nested.pth")
    safetensors.torch.save_file({}, tmp_path / "mean.safetensors", {"mean": "half"})
    data = safetensors.torch.save(backbone())
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(CheckpointError, match=path.name):
            read_weights(path)
    for name in ("missing.pth", "missing.safetensors"):
        with pytest.raises(CheckpointError, match=f"{name}: no such weights file"):
            read_weights(tmp_path / name)


def test_weights_that_do_not_fit(tmp_path):
    state = backbone()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit the model: .* tensors have no place .* are missing"):
        Classifier.create("test_efficientnet", classes=["a", "b"], weights=tmp_path / "w.safetensors")
    del state["layer1.0.conv1.weight"]
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(
        CheckpointError, match=r"0 tensors have no place .*1 are missing \(first \['layer1.0.conv1.weight"
    ):
        Classifier.create(ARCH, classes=["a", "b"], weights=tmp_path / "w.safetensors")
    state["layer1.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"1 tensors have no place \(first \['layer1.0.conv1.weight'\]\), 0 are"):
        Classifier.create(ARCH, classes=["a", "b"], weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("arch", "size", "scales", "args"),
    [
        ("test_vit", 64, (0.5, 1.5, 2.0), {}),
        ("test_vit", 96, (1.5, 2.0), {}),
        ("swin_tiny_patch4_window7_224", 64, (1.5, 2.0), {"embed_dim": 24}),
        ("pit_ti_224", 64, (), {}),
        ("resnet10t", 64, (1.5, 2.0), {}),
    ],
)
def test_input_sizes_just_work(tmp_path, make_classifier, make_images, arch, size, scales, args):
    classifier = make_classifier(arch, image_size=size, model_args=args)
    images = make_images((50, 70))
    for scale in scales:
        assert classifier.model(classifier.preprocess(images, scale)).shape == (1, 3)
    x = classifier.preprocess(images)
    classifier.save(tmp_path / "run")
    again = load_classifier(tmp_path / "run")
    assert torch.equal(again.model(x), classifier.model(x))
    assert again.model_args == classifier.model_args
    # Only networks that fix their input's size are told one.
    assert ("img_size" in classifier.model_args) == (arch != "resnet10t")


def test_the_caller_s_arguments_come_before_those_for_the_size(make_classifier):
    classifier = make_classifier("test_vit", model_args={"dynamic_img_size": False})
    assert classifier.model_args == {"img_size": 64, "dynamic_img_size": False}
    with pytest.raises(InputError, match=r"test_vit cannot take inputs of 96 pixels .*choose another --image-size"):
        make_classifier("test_vit", image_size=96, model_args={"img_size": 64, "dynamic_img_size": False})
    with pytest.raises(InputError, match=r"cannot be built with .*no_such_argument"):
        make_classifier("test_vit", model_args={"no_such_argument": 1})


def test_input_sizes_that_an_architecture_cannot_take(make_classifier):
    with pytest.raises(InputError, match=r"test_vit cannot take inputs of 100 pixels .*--image-size, such as 160"):
        make_classifier("test_vit", image_size=100)


def test_weights_of_another_input_size_are_resampled(tmp_path):
    state = backbone(arch="test_vit", img_size=32)
    assert state["pos_embed"].shape == (1, 1 + 4, 64)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors", {"arch": "test_vit"})
    for classes in (["a", "b"], list("abcde")):
        model = Classifier.create(None, classes=classes, image_size=64, weights=tmp_path / "w.safetensors").model
        own = model.state_dict()
        assert all(torch.equal(own[name], state[name]) for name in own if name.startswith(("blocks.", "patch_embed.")))
        assert own["pos_embed"].shape == (1, 1 + 16, 64)
        assert torch.equal(own["pos_embed"][:, 0], state["pos_embed"][:, 0])
        small, large = (grid[0, 1:].mean(dim=0) for grid in (state["pos_embed"], own["pos_embed"]))
        assert torch.allclose(small, large, atol=0.2 * float(small.abs().max()))
        assert torch.equal(own["head.weight"], state["head.weight"]) == (len(classes) == 5)
    del state["blocks.0.norm1.weight"]
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"1 are missing .*--image-size"):
        Classifier.create("test_vit", classes=["a", "b"], image_size=64, weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize("arch", ["resnet10t", "test_efficientnet", "regnetx_002"])
def test_a_lower_output_stride(tmp_path, make_classifier, make_images, arch):
    classifier = make_classifier(arch, image_size=224)
    finer = classifier.with_output_stride(16)
    x = classifier.preprocess(make_images((224, 224)))
    assert classifier.model.forward_features(x).shape[-2:] == (7, 7)
    assert finer.model.forward_features(x).shape[-2:] == (14, 14)
    assert finer.model_args == {"output_stride": 16}
    assert not finer.model.training
    state = finer.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in classifier.model.state_dict().items())
    finer.save(tmp_path / "run")
    assert torch.equal(load_classifier(tmp_path / "run").model(x), finer.model(x))


def test_output_strides_that_cannot_be_had(make_classifier):
    with pytest.raises(InputError, match="stride of 8, 16 or 32, got 4"):
        make_classifier().with_output_stride(4)
    small = {"mlp_ratio": 0.02}
    for classifier in (make_classifier("test_vit"), make_classifier("vgg11", model_args=small)):
        with pytest.raises(InputError, match=f"{classifier.arch} has no output stride of 16; leave"):
            classifier.with_output_stride(16)


def test_a_new_head_starts_calm_and_a_known_one_is_kept(tmp_path):
    state = backbone(classes=5)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    new = Classifier.create(ARCH, classes=["a", "b"], weights=tmp_path / "w.safetensors").model.fc
    assert 0 < new.weight.std() < 0.02
    assert not new.bias.any()
    known = Classifier.create(ARCH, classes=list("abcde"), weights=tmp_path / "w.safetensors").model.fc
    assert torch.equal(known.weight, state["fc.weight"])
    assert torch.equal(known.bias, state["fc.bias"])
    headless = {name: value for name, value in state.items() if not name.startswith("fc.")}
    safetensors.torch.save_file(headless, tmp_path / "w.safetensors")
    assert not Classifier.create(ARCH, classes=list("abcde"), weights=tmp_path / "w.safetensors").model.fc.bias.any()


def test_pretrained_weights_offline(monkeypatch):
    def fail(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand more")

    monkeypatch.setattr("timm.models._builder.load_pretrained", fail)
    monkeypatch.setattr("camseg.models.hub._answers", lambda *_: True)
    with pytest.raises(
        WeightsUnavailableError, match=r"weights of resnet18 could not be had \(We couldn't .*--weights FILE"
    ):
        Classifier.create("resnet18", classes=["a", "b"], weights="imagenet")


def test_a_hub_out_of_reach_is_told_at_once_and_quietly(monkeypatch, tmp_path, caplog, capfd):
    from huggingface_hub import constants  # type: ignore[import-not-found,unused-ignore]

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")  # where nothing listens
    monkeypatch.setattr("camseg.models.hub.getproxies", dict)
    started = time.perf_counter()
    with pytest.raises(WeightsUnavailableError, match=r"\(the hub is out of reach, .*--weights none"):
        Classifier.create("resnet18", classes=["a", "b"], weights="imagenet")
    assert time.perf_counter() - started < 5
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert not constants.HF_HUB_OFFLINE


def test_pretrained_weights_online(monkeypatch):
    monkeypatch.setattr("camseg.models.hub._answers", lambda *_: True)

    def create(name, num_classes, pretrained=False, **args):
        model = timm.models.create_model(name, num_classes=num_classes, **args)
        assert pretrained
        torch.nn.init.ones_(model.fc.weight)  # a stand-in for what would be downloaded
        return model

    monkeypatch.setattr(timm, "create_model", create)
    assert Classifier.create(ARCH, classes=["a", "b"], weights="imagenet").model.fc.weight.std() < 0.02
    known = [f"class {i}" for i in range(1000)]
    assert (Classifier.create(ARCH, classes=known, weights="imagenet").model.fc.weight == 1).all()


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the real weights are not here")
def test_real_weights():
    classifier = Classifier.create(None, classes=["a", "b"], weights=WEIGHTS)
    assert classifier.arch == DEFAULT_ARCH == "mobilenetv2_100"
    assert classifier.model_args == {"pad_type": "same"}
    assert (classifier.mean, classifier.std) == ((0.5,) * 3, (0.5,) * 3)
    with pytest.raises(InputError, match="choose that model"):
        Classifier.create("resnet18", classes=["a", "b"], weights=WEIGHTS)


def test_probabilities_and_predictions(make_classifier):
    logits = torch.tensor([[2.0, 1.0, -1.0], [-3.0, -2.0, -1.0]])
    single, multi = make_classifier(), make_classifier(multi_label=True)
    assert single.probabilities(logits).sum(dim=1).allclose(torch.ones(2))
    assert multi.probabilities(logits).allclose(1 / (1 + (-logits).exp()))
    assert single.predicted(single.probabilities(logits).numpy()) == [[0], [2]]
    assert multi.predicted(multi.probabilities(logits).numpy()) == [[0, 1], []]
    assert multi.predicted(np.array([[0.5, 0.4999, 0.0]])) == [[0]]


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_temperature_changes_how_sure_but_not_what(tmp_path, make_classifier, multi_label):
    classifier = make_classifier(multi_label=multi_label)
    cooled = replace(classifier, temperature=2.5)
    logits = torch.tensor([[2.0, 1.0, -1.0], [-3.0, -2.0, -1.0], [0.0, 0.0, 0.0]])
    assert torch.equal(cooled.probabilities(logits), classifier.probabilities(logits / 2.5))
    sure, unsure = (one.probabilities(logits).numpy() for one in (classifier, cooled))
    assert cooled.predicted(unsure) == classifier.predicted(sure)
    assert abs(unsure[0, 0] - 0.5) < abs(sure[0, 0] - 0.5)
    assert cooled.fingerprint() != classifier.fingerprint()
    cooled.save(tmp_path)
    assert load_classifier(tmp_path).temperature == 2.5
    assert load_classifier(tmp_path).fingerprint() == cooled.fingerprint()


PICKLED = """
import pickle, sys
from pathlib import Path

import torch

torch.set_num_threads(1)
folder = Path(sys.argv[1])
classifier = pickle.loads((folder / "classifier").read_bytes())
member = getattr(classifier, "members", (classifier,))[0]
with torch.inference_mode():
    torch.save(member.model(torch.load(folder / "x")), folder / "logits")
print(classifier.fingerprint(), classifier.run, member.device, member.model.training)
"""


@pytest.mark.parametrize("arch", [ARCH, f"{ARCH}+mab+sbr", "test_vit", "coat_tiny"])  # the last with tied weights
def test_a_classifier_pickles(tmp_path, make_classifier, make_images, arch):
    classifier = replace(make_classifier(arch, negative=["none"]), temperature=2.5, training={"a": [1]}, run="/x")
    x = classifier.preprocess(make_images((40, 70), (64, 64)))
    with torch.inference_mode():
        logits = classifier.model(x)
    classifier.model.layer_hook = lambda: None  # networks may hold what does not pickle
    again = pickle.loads(pickle.dumps(classifier))
    assert again.model is not classifier.model
    assert again.fingerprint() == classifier.fingerprint()
    assert (again.training, again.run, again.temperature) == ({"a": [1]}, "/x", 2.5)
    assert not again.model.training
    with torch.inference_mode():
        assert torch.equal(again.model(x), logits)


def test_another_process_gets_the_same_classifier(tmp_path, make_classifier, make_images):
    members = tuple(make_classifier(seed=seed) for seed in (0, 1))
    x = members[0].preprocess(make_images((40, 70), (64, 64)))
    torch.save(x, tmp_path / "x")
    for one in (members[0], Ensemble(members=members, shares=(0.5, 0.5), run="/x")):
        (tmp_path / "classifier").write_bytes(pickle.dumps(one))
        done = subprocess.run([sys.executable, "-c", PICKLED, tmp_path], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [one.fingerprint(), str(one.run), "cpu", "False"]
        with torch.inference_mode():
            assert torch.equal(torch.load(tmp_path / "logits"), members[0].model(x))


def test_what_goes_to_worker_processes_is_small(make_classifier, make_images):
    classifier = make_classifier()
    again = pickle.loads(pickle.dumps(classifier.preprocessing))
    (image,) = make_images((40, 70))
    assert np.array_equal(again.to_input(image), classifier.to_input(image))
    assert len(pickle.dumps(classifier.preprocessing)) < 1000
