from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from camseg.base.errors import InputError, LayerError
from camseg.cams.capture import capture
from camseg.cams.compute import compute_cams
from camseg.cams.methods.registry import METHODS, NATIVE, check_methods
from camseg.cams.settings import CamSettings

ONE_PASS = [name for name in NATIVE if METHODS[name].passes == "1"]


@pytest.fixture
def passes(monkeypatch):
    """The batch sizes of a network's passes."""

    def count(classifier):
        sizes = []
        classifier.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        return sizes

    return count


def test_eight_methods_take_one_pass(tiny_classifier, make_images, passes):
    sizes = passes(tiny_classifier)
    images = make_images((64, 64), (40, 40), (50, 30))
    compute_cams(tiny_classifier, images, ["cat"] * 3, ONE_PASS, layer="layer4")
    # Once for a network: the search for layers, images disturbed to settle a map of 16 channels of 16 x 16, a trial.
    assert sizes == [1, 6, 1, 3]
    sizes.clear()
    compute_cams(tiny_classifier, images, ["cat"] * 3, ONE_PASS, layer="layer4")
    assert sizes == [3]
    sizes.clear()
    compute_cams(tiny_classifier, images, [["cat", "dog"]] * 3, ONE_PASS, layer="layer4", scales=(1, 1.5), flip=True)
    assert sizes == [1, 3, 3, *[1] * 6]  # larger views in batches of as many pixels
    sizes.clear()
    compute_cams(tiny_classifier, images, ["cat"] * 3, ONE_PASS, batch_size=2)
    assert sizes == [2, 1]
    sizes.clear()
    # The first pass at scale 1 gives the scores; images that need no map are spared the others.
    compute_cams(tiny_classifier, images, ["cat", "none", "dog"], scales=(2.0,), layer="layer4")
    assert sizes == [1, 3, 1, 1]
    sizes.clear()
    compute_cams(tiny_classifier, images, ["none"] * 3, scales=(1.0, 2.0), flip=True, layer="layer4")
    assert sizes == [3]
    sizes.clear()
    compute_cams(tiny_classifier, images[:1], ["cat"], ["scorecam"], layer="layer1")
    assert sizes == [1, 1, 1, 1, 1, 32]  # a trial, the first pass, three to fold batch norms, one per channel


SIZES = [(64, 64), (40, 90), (91, 30), (7, 5)]


@pytest.mark.parametrize("name", NATIVE)
def test_maps_have_the_image_s_size_and_fill_0_to_1(tiny_classifier, make_images, name):
    images = make_images(*SIZES)
    cams = compute_cams(tiny_classifier, images, ["cat", "dog", "cat", "dog"], name, scales=(1.0, 1.5), layer="layer3")
    assert list(cams) == [name]
    for image, cam in zip(images, cams[name], strict=True):
        assert cam.shape == image.shape[:2]
        assert cam.dtype == np.float32
        assert cam.min() == 0.0
        assert cam.max() == 1.0


def test_maps_do_not_depend_on_the_batch(tiny_classifier, make_images):
    images, targets = make_images(*SIZES), ["cat", "none", "dog", "cat"]
    settings = {"methods": ONE_PASS, "scales": (1.0, 1.5), "flip": True, "score": "margin"}
    one, four = (compute_cams(tiny_classifier, images, targets, batch_size=size, **settings) for size in (1, 4))
    for name in ONE_PASS:
        for a, b in zip(one[name], four[name], strict=True):
            assert np.abs(a - b).max() < 1e-3, name


def test_several_targets_equal_separate_calls(tiny_classifier, make_images):
    images = make_images((64, 64), (40, 90))
    settings = {"methods": ["layercam", "eigencam"], "scales": (1.0, 1.5), "flip": True, "gate": False}
    together = compute_cams(tiny_classifier, images, [["dog", "cat", "dog"], ["none"]], **settings)
    for name, (first, second) in together.items():
        assert list(first) == ["dog", "cat"]
        assert list(second) == ["none"]
        for target in ("dog", "cat"):
            alone = compute_cams(tiny_classifier, images, [target, "none"], **settings)[name]
            assert np.abs(first[target] - alone[0]).max() < 1e-5
            assert np.abs(second["none"] - alone[1]).max() < 1e-5


def test_each_target_decides_the_form_of_its_own_result(tiny_classifier, make_images):
    images = make_images((64, 64), (64, 64), (64, 64))
    for size in (1, 3):
        found = compute_cams(tiny_classifier, images, ["cat", ["cat"], []], batch_size=size)["layercam"]
        assert isinstance(found[0], np.ndarray)
        assert list(found[1]) == ["cat"]
        assert found[2] == {}


def test_predicted_targets(make_classifier, make_images):
    images = make_images((64, 64), (64, 64), seed=5)
    classifier = make_classifier()
    probabilities = classifier.probabilities(classifier.model(classifier.preprocess(images))).detach().numpy()
    names = [classifier.classes[i] for i in probabilities.argmax(axis=1)]
    for got, want in zip(
        compute_cams(classifier, images)["layercam"], compute_cams(classifier, images, names)["layercam"], strict=True
    ):
        assert np.array_equal(got, want)
    multi = replace(classifier, multi_label=True)
    with torch.no_grad():
        multi.model.fc.bias.copy_(torch.tensor([9.0, -9.0, 9.0]))
    for found in compute_cams(multi, images)["layercam"]:
        assert list(found) == ["cat", "none"]
        assert all(cam.max() == 1.0 for cam in found.values())
    with torch.no_grad():
        multi.model.fc.bias.fill_(-9.0)
    assert compute_cams(multi, images)["layercam"] == [{}, {}]


def test_negative_classes_are_gated(tiny_classifier, make_images):
    images = make_images((64, 64), (40, 90))
    for raw in (False, True):
        found = compute_cams(tiny_classifier, images, ["none", ["none", "cat"]], ONE_PASS, flip=True, raw=raw)
        for name in ONE_PASS:
            assert found[name][0].shape == (64, 64)
            assert not found[name][0].any()
            assert not found[name][1]["none"].any()
            assert found[name][1]["cat"].any(), name
    assert compute_cams(tiny_classifier, images[:1], ["none"], gate=False)["layercam"][0].max() == 1.0


def test_a_map_without_a_positive_value_is_zero(tiny_classifier, make_images):
    with torch.no_grad():
        tiny_classifier.model.fc.weight[0] = -1.0  # no channel speaks for the first class
    for raw in (False, True):
        cam = compute_cams(tiny_classifier, make_images((64, 64)), ["cat"], ["layercam"], raw=raw)["layercam"][0]
        assert not cam.any()


def test_mirrored_images_have_mirrored_maps(tiny_classifier, make_images):
    images = make_images((64, 64), (40, 90))
    settings = {"targets": ["cat", "dog"], "methods": ONE_PASS, "scales": (1.0, 1.5), "layer": "layer3"}
    plain = compute_cams(tiny_classifier, images, **settings, flip=True)
    mirrored = compute_cams(tiny_classifier, [image[:, ::-1] for image in images], **settings, flip=True)
    for name in ONE_PASS:
        for a, b in zip(plain[name], mirrored[name], strict=True):
            assert np.abs(a - b[:, ::-1]).max() < 0.01, name
    once = compute_cams(tiny_classifier, images, **settings)
    assert np.abs(once["layercam"][0] - plain["layercam"][0]).max() > 0.01


def test_raw_maps_are_the_mean_over_the_views(tiny_classifier, make_images):
    images = make_images((64, 64), (40, 90))

    def raw(scales, flip=False, views=images):
        found = compute_cams(tiny_classifier, views, ["cat", "dog"], "hirescam", scales=scales, flip=flip, raw=True)
        return found["hirescam"]

    apart = [raw((scale,)) for scale in (1.0, 1.5)]
    for both, a, b in zip(raw((1.5, 1.0)), *apart, strict=True):
        assert np.allclose(both, (a + b) / 2, atol=1e-6)
        assert both.min() >= 0
    mirrored = [cam[:, ::-1] for cam in raw((1.0,), views=[np.ascontiguousarray(image[:, ::-1]) for image in images])]
    for both, a, b in zip(raw((1.0,), flip=True), apart[0], mirrored, strict=True):
        assert np.allclose(both, (a + b) / 2, atol=1e-5)


def test_one_view_s_raw_map_is_the_method_s_after_relu(tiny_classifier, make_images):
    (image,) = make_images((64, 64))
    captured = capture(tiny_classifier, tiny_classifier.preprocess([image]), [1], score="margin", layer="layer3")
    small = METHODS["gradcam"].load()(captured)[0].clamp_min(0).numpy()
    raw = compute_cams(tiny_classifier, [image], ["dog"], "gradcam", score="margin", layer="layer3", raw=True)
    want = cv2.resize(small, (64, 64), interpolation=cv2.INTER_LINEAR)
    assert small.any()
    assert np.allclose(raw["gradcam"][0], want, rtol=1e-4, atol=1e-6 * want.max())
    cam = compute_cams(tiny_classifier, [image], ["dog"], "gradcam", score="margin", layer="layer3")["gradcam"][0]
    assert np.allclose(cam, (want - want.min()) / (want.max() - want.min()), atol=1e-4)


def test_each_view_has_one_voice(tiny_classifier, make_images):
    (image,) = make_images((64, 64))
    settings = {"targets": ["cat"], "methods": "layercam", "layer": "layer3", "raw": True}
    total = np.zeros((64, 64))
    for scale in (1.0, 1.5, 2.0):
        captured = capture(tiny_classifier, tiny_classifier.preprocess([image], scale), [0], layer="layer3")
        highest = METHODS["layercam"].load()(captured).max().item()
        total += compute_cams(tiny_classifier, [image], scales=(scale,), **settings)["layercam"][0] / highest
    fused = compute_cams(tiny_classifier, [image], ["cat"], "layercam", layer="layer3", scales=(1, 1.5, 2))["layercam"][
        0
    ]
    assert np.allclose(fused, (total - total.min()) / (total.max() - total.min()), atol=1e-4)


@pytest.mark.parametrize("size", [(30, 90), (90, 30), (64, 63), (5, 200)])
def test_padding_is_cut_off_again(make_classifier, make_images, size):
    classifier = make_classifier(resize="pad")
    (image,) = make_images(size)
    settings = {"targets": ["cat"], "methods": "hirescam", "layer": "layer3", "raw": True}
    square = compute_cams(replace(classifier, resize="stretch"), [classifier.to_input(image)], **settings)["hirescam"][
        0
    ]
    top, left, tall, wide = (round(64 * share) for share in classifier.content_box(*size))
    content = square[top : top + tall, left : left + wide]
    want = cv2.resize(content, size[::-1], interpolation=cv2.INTER_LINEAR)
    got = compute_cams(classifier, [image], **settings)["hirescam"][0]
    assert got.shape == size
    assert want.any()
    assert np.allclose(got, want, rtol=1e-4, atol=1e-5 * want.max())


def test_one_pixel_images(tiny_classifier):
    cam = compute_cams(tiny_classifier, [np.zeros((1, 1, 3), np.uint8)], ["cat"], scales=(1, 2), flip=True)["layercam"][
        0
    ]
    assert cam.tolist() == [[0.0]]  # a constant map says nothing of place


def test_no_images(tiny_classifier):
    assert compute_cams(tiny_classifier, [], [], ["layercam", "eigencam"]) == {"layercam": [], "eigencam": []}


def test_the_network_is_left_as_it_was(tiny_classifier, make_images):
    tiny_classifier.model.train()
    compute_cams(tiny_classifier, make_images((64, 64)), ["cat"], "all", layer="layer1")
    assert all(module.training for module in tiny_classifier.model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in tiny_classifier.model.parameters())
    assert not any(module._forward_hooks for module in tiny_classifier.model.modules())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["cat"]}, "2 images, targets"),
        ({"targets": ["cat"] * 3}, "2 images, targets"),
        ({"targets": "cat"}, "one target per image"),
        ({"targets": ["cat", "cow"]}, "no class 'cow'; it has cat, dog, none"),
        ({"targets": [["cat", "cow"], "dog"]}, "no class 'cow'"),
        ({"targets": [0, 1]}, "no class 0"),
        ({"targets": ["cat", None]}, "no class None"),
        ({"methods": "smoothcam"}, "unknown CAM method 'smoothcam'; choose among gradcam, "),
        ({"methods": []}, "at least one CAM method"),
        ({"scales": ()}, "at least one scale between 0.1 and 8, or auto"),
        ({"scales": (0.0,)}, "expected scales: .* 0.1 .*; got 0.0"),
        ({"scales": (1.0, 8.1)}, "expected scales: .* 8 .*; got 8.1"),
        ({"scales": (1.0, float("nan"))}, "expected scales: .*; got nan"),
        ({"scales": (1, 1.0)}, "different scales"),
        ({"score": "loss"}, "expected score: .*'class' or 'margin' or .*; got 'loss'"),
        ({"batch_size": 0}, "batch size of at least 1"),
    ],
)
def test_calls_that_cannot_be_answered(tiny_classifier, make_images, changes, message):
    with pytest.raises(InputError, match=message):
        compute_cams(tiny_classifier, make_images((64, 64), (64, 64)), **{"targets": ["cat", "dog"], **changes})


def test_layers_and_scores_that_the_classifier_lacks(make_classifier, make_images):
    images = make_images((64, 64))
    with pytest.raises(LayerError, match="no layer 'layer9'"):
        compute_cams(make_classifier(), images, ["cat"], layer="layer9")
    with pytest.raises(InputError, match="margin needs a negative class"):
        compute_cams(make_classifier(), images, ["cat"], score="margin")
    with pytest.raises(InputError, match="RGB image"):
        compute_cams(make_classifier(), [images[0] / 255.0], ["cat"])


def test_method_names():
    assert check_methods(["all"]) == NATIVE
    assert set(METHODS) - set(NATIVE) == {name for name, method in METHODS.items() if method.needs == "grad-cam"}
    assert check_methods(["sess", "all"]) == ("sess", *NATIVE)
    assert check_methods(["layercam", "all"])[0] == "layercam"
    assert check_methods(["gradcam", "gradcam"]) == ("gradcam",)
    assert check_methods("gradcam") == ("gradcam",)
    assert CamSettings(methods=("all",)).methods == NATIVE
