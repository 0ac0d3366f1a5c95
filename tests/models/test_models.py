"""The papers' architectures by their names: parameter counts, outputs, the layer that ``auto`` finds."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from camseg.base.errors import InputError, WeightsUnavailableError
from camseg.cams.compute import compute_cams
from camseg.cams.layers import find_layer, list_layers
from camseg.classify.checkpoint import load_classifier
from camseg.classify.classifier import Classifier
from camseg.data.datasets import load_training_data
from camseg.data.images import read_image
from camseg.data.splits import split
from camseg.models.backbones.med_ic import MedIC
from camseg.models.building import OWN, create_model, default_image_size, normalisation
from camseg.models.names import ARCHITECTURES, canonical_name
from camseg.train.settings import TrainSettings
from camseg.train.trainer import train_classifier

PUBLISHED = {
    "resnet50": 25.6,
    "resnetv2_50": 25.6,
    "densenet121": 8.0,
    "densenet201": 20.0,
    "mobilenetv2_100": 3.5,
    "efficientnet_b0": 5.3,
    "efficientnet_b5": 30,
    "legacy_xception": 22.9,
    "inception_v3": 23.8,
    "vgg16": 138,
    "vgg19": 144,
    "convnext_tiny": 29,
    "convnext_base": 89,
    "vit_base_patch16_224": 86,
    "vit_small_patch16_224": 22,
}
"""Learned parameters with 1000 classes, millions: as the papers, or their reference implementations, print them."""
COUNTS = {"vit_minimal": 2_158_120, "nasnet_mobile": 5_289_978}
"""Of the networks that are built here, exactly."""

MED_IC = {
    "med_ic": (282_334, 301_983),
    "med_ic_2": (282_377, 302_026),
    "med_ic_3": (282_420, 302_069),
    "med_ic_inn": (225_374, 245_279),
    "med_ic_cnn": (512_935, 532_584),
}
"""With 7 classes, batch norm's running statistics included: what the description gives, and what the paper counts."""


def counted(name):
    """A network to count: without numbers, where timm can build it so."""
    try:
        with torch.device("meta"):
            return create_model(name, 1000)
    except InputError:
        return create_model(name, 1000)


def learned(model):
    return sum(parameter.numel() for parameter in model.parameters())


def with_statistics(model):
    """What Keras counts: parameters, and batch norm's running means and variances."""
    return sum(value.numel() for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked"))


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("ResNet50", "resnet50"),
        ("ResNet50V2", "resnetv2_50"),
        ("densenet-201", "densenet201"),
        ("MobileNetV2", "mobilenetv2_100"),
        ("MOBILENET_V2", "mobilenetv2_100"),
        ("EfficientNetB5", "efficientnet_b5"),
        ("EfficientNet-B0", "efficientnet_b0"),
        ("Xception", "legacy_xception"),
        ("Inception V3", "inception_v3"),
        ("ConvNeXtBase", "convnext_base"),
        ("ViT", "vit_base_patch16_224"),
        ("ViT-B/16", "vit_base_patch16_224"),
        ("NASNetMobile", "nasnet_mobile"),
        ("MedIC", "med_ic"),
        ("Med-IC", "med_ic"),
        ("Hybrid-2", "med_ic_2"),
        ("hybrid_3", "med_ic_3"),
        ("INN", "med_ic_inn"),
        ("CNN-3", "med_ic_cnn"),
        ("resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("test_resnet", "test_resnet"),
        ("MobileNetV2+MAB + sbr", "mobilenetv2_100+mab+sbr"),
    ],
)
def test_names_that_people_type(typed, canonical):
    assert canonical_name(typed) == canonical
    assert canonical_name(canonical) == canonical


def test_the_table_of_names():
    for name, known in ARCHITECTURES.items():
        assert name in OWN or timm.is_model(name), name
        assert {canonical_name(typed) for typed in known.typed} == {name}
        assert known.paper
    assert set(OWN) <= set(ARCHITECTURES)
    assert not any(timm.is_model(name) for name in OWN)
    # No name of timm is taken for another one.
    assert all(canonical_name(name) == name for name in timm.list_models())


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if not name.startswith("med_ic")])
def test_parameter_counts(name):
    count = learned(counted(name))
    assert count == COUNTS[name] if name in COUNTS else count == pytest.approx(PUBLISHED[name] * 1e6, rel=0.015)


def test_nasnet_counts_as_keras_does():
    model = counted("NASNetMobile")
    assert with_statistics(model) == 5_326_716
    assert with_statistics(model) - learned(model.fc) == 4_269_716


@pytest.mark.parametrize("name", MED_IC)
def test_med_ic_counts(name):
    described, published = MED_IC[name]
    assert with_statistics(create_model(name, 7)) == described
    # What no 7 classes can give, and what a wider dense part and 8 classes would.
    build = OWN[name].build
    batch_norm = 1024 if name != "med_ic_inn" else 1024 + 256
    assert with_statistics(build(num_classes=8, dense=(256, 192, 128, 96, 64))) + batch_norm == published


def test_each_involution_layer_adds_what_the_paper_says():
    counts = [with_statistics(MedIC(7, involutions=number)) for number in (1, 2, 3)]
    assert np.diff(counts).tolist() == [43, 43]


def test_nasnet_s_features_and_layer():
    classifier = Classifier.create("nasnet_mobile", classes=["a", "b"], image_size=64)
    with torch.no_grad():
        assert classifier.model.forward_features(torch.zeros(1, 3, 64, 64)).shape == (1, 1056, 2, 2)
        assert classifier.model.forward_features(torch.zeros(1, 3, 100, 100)).shape == (1, 1056, 4, 4)
    layers = {layer.name: layer for layer in list_layers(classifier)}
    assert (find_layer(classifier), layers["relu"].channels) == ("relu", 1056)
    sizes = [layers[f"cells.{index}"].height for index in range(16) if f"cells.{index}" in layers]
    assert sizes == [16, *[8] * 5, *[4] * 5, *[2] * 5]


@pytest.mark.parametrize(
    ("name", "layer", "side"),
    [("med_ic", "blocks", 2), ("med_ic_2", "blocks", 2), ("med_ic_inn", "blocks", 14), ("med_ic_cnn", "blocks.2.1", 3)],
)
def test_med_ic_takes_small_images_and_others(name, layer, side):
    classifier = Classifier.create(name, classes=["a", "b"])
    assert classifier.image_size == default_image_size(name) == 28
    found = {one.name: one for one in list_layers(classifier)}
    assert find_layer(classifier) == layer
    assert found[layer].height == side
    larger = Classifier.create(name, classes=["a", "b"], image_size=96)
    assert larger.model.state_dict().keys() == classifier.model.state_dict().keys()
    # The last map is the network's own, not the grid that the dense layers read.
    assert {one.name: one for one in list_layers(larger)}[find_layer(larger)].height > side


def test_sizes_and_normalisation_of_ours():
    assert default_image_size("MedIC+mab") == 28
    assert default_image_size("resnet50") == default_image_size("nasnet_mobile") == 224
    assert normalisation(create_model("med_ic", 2)) == ((0.5,) * 3, (0.5,) * 3)


def test_what_ours_refuse():
    with pytest.raises(WeightsUnavailableError, match=r"no ImageNet weights of nasnet_mobile; .*--weights none"):
        Classifier.create("NASNetMobile", classes=["a"], weights="imagenet")
    with pytest.raises(InputError, match=r"med_ic cannot be built with .*no_such"):
        Classifier.create("med_ic", classes=["a"], model_args={"no_such": 1})
    with pytest.raises(InputError, match=r"near it are .*med_ic"):
        create_model("med_icc", 2)
    with pytest.raises(InputError, match="vit_minimal cannot take inputs of 28 pixels"):
        Classifier.create("vit_minimal", classes=["a"], image_size=28)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"in_chans": 1}, r"got in_chans=1; camseg feeds three channels"),
        ({"features_only": True}, r"one logit per class, \(1, 2\) .*features_only=True gives a list; leave"),
        ({"global_pool": ""}, r"cannot take inputs of 32 pixels .*choose another --image-size.* or other --model-arg"),
    ],
)
def test_arguments_by_which_a_network_gives_no_logits(args, message):
    with pytest.raises(InputError, match=message):
        Classifier.create("resnet10t", classes=["a", "b"], image_size=32, model_args=args)


SMALL = ["med_ic", "med_ic_2", "med_ic_3", "med_ic_inn", "med_ic_cnn", "vit_minimal", "MobileNetV2+mab+rph+sbr"]
LARGE = [name for name in ARCHITECTURES if name not in SMALL]
REAL = Path(__file__).parents[3] / "shared/data/brain_lgg_mri/images/train"


@pytest.fixture
def few_images(make_folder, tmp_path):
    """Four images of each of two classes: real ones where they are at hand."""
    if not REAL.is_dir():
        return make_folder(count=4)
    for label in ("no_tumour", "tumour"):
        (tmp_path / "few" / label).mkdir(parents=True)
        for image in sorted((REAL / label).iterdir())[:80:20]:
            (tmp_path / "few" / label / image.name).symlink_to(image)
    return tmp_path / "few"


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_two_epochs_then_saved_and_loaded_gives_equal_cams(tmp_path, few_images, name):
    torch.manual_seed(0)
    own = OWN.get(canonical_name(name))
    side = 28 if own and own.image_size == 28 else 96
    data = load_training_data(few_images)
    classifier = Classifier.create(name, classes=data.classes, image_size=side)
    before = {key: value.clone() for key, value in classifier.model.state_dict().items()}
    settings = TrainSettings(epochs=2, batch_size=4, warmup_epochs=1)
    train_classifier(classifier, *split(data, 0.25, 0), tmp_path / "run", settings, device="cpu")
    again = load_classifier(tmp_path / "run")
    assert any(not torch.equal(value, before[key]) for key, value in again.model.state_dict().items())
    image, label = read_image(data.samples[-1].path), data.classes[-1]
    ours, theirs = (compute_cams(one, [image], [label], ["gradcam"])["gradcam"][0] for one in (classifier, again))
    assert np.array_equal(ours, theirs)
    assert ours.shape == image.shape[:2]
