"""What a segmentation network looked at: scores of pixels, layers, regions, and the references' own maps."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from camseg.base.errors import InputError, LayerError
from camseg.cams.capture import network
from camseg.cams.compute import compute_cams
from camseg.cams.layers import find_layers, list_layers
from camseg.cams.methods.gradient import gradcam
from camseg.cams.methods.registry import METHODS
from camseg.models.segmenters.building import build_segmenter
from camseg.segment.segmenter import Segmenter

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from segmentation_pairs import arrays, needs_shared
from segmentation_pairs import network as reference

GRADIENT = [name for name, method in METHODS.items() if method.needs == "gradients"]
OTHERS = ["eigencam", "smoothgradcam++", "scorecam", "ablationcam", "saliency", "integrated-gradients", "occlusion"]


def as_segmenter(model, **settings):
    """A network as it stands, fed with numbers as they are."""
    return Segmenter(
        model=model,
        arch="unet",
        model_args={},
        multi_label=True,
        negative=(),
        image_size=64,
        resize="stretch",
        window="full",
        **{"classes": ("object",), "mean": (0.5,) * 3, "std": (0.5,) * 3, **settings},
    )


@needs_shared
@pytest.mark.parametrize("name", ["unet", "multiresunet", "dcunet"])
def test_the_references_maps(name):
    pairs = arrays(name)
    segmenter = as_segmenter(reference(name))
    x = torch.from_numpy(pairs["x_0"])
    mask = torch.from_numpy(pairs["cam_mask"]).bool()[None, ..., None]
    for score, regions in (("mean", None), ("mask", mask)):
        net = network(segmenter, layers=["bottleneck", "last-decoder"], score=score)
        captures = net.forward(x, regions=regions).toward([0])
        for layer, captured in zip(("bridge", "dec9"), captures, strict=True):
            assert captured.layer == layer
            raw = gradcam(captured)[0].numpy()
            want = pairs[f"cam_{score}_{layer}"] * pairs[f"camscale_{score}_{layer}"]
            assert np.abs(raw - want).max() <= 1e-3 * pairs[f"camscale_{score}_{layer}"]


def own_gradients(segmenter, x, layer, score):
    """d score / d activations by a graph of the test's own; ``score``: logits -> a number."""
    kept = []
    module = segmenter.model.get_submodule(layer)
    handle = module.register_forward_hook(
        lambda _m, _i, output: kept.append(output.detach().requires_grad_()) or kept[0]
    )
    try:
        (slope,) = torch.autograd.grad(score(segmenter.model.eval()(x)), kept)
    finally:
        handle.remove()
    return slope


@pytest.mark.parametrize("multi_label", [True, False])
def test_scores_are_of_logits_and_of_the_pixels_that_count(make_segmenter, make_images, multi_label):
    segmenter = make_segmenter(classes=["ring", "disc"], multi_label=multi_label)
    x = segmenter.preprocess(make_images((32, 32)))
    place = 1 if multi_label else 2
    logits = segmenter.model(x)[0]
    predicted = logits[1] > 0 if multi_label else logits.argmax(dim=0) == 2
    assert 0 < predicted.sum() < predicted.numel()
    mask = torch.zeros(1, 32, 32, 2, dtype=torch.bool)
    mask[0, 4:9, :, 1] = True
    wanted = {
        "mean": lambda out: out[0, place].mean(),
        "predicted": lambda out: out[0, place][predicted].sum(),
        "mask": lambda out: out[0, place, 4:9].sum(),
    }
    for score, by_hand in wanted.items():
        regions = mask if score == "mask" else None
        net = network(segmenter, layers="last-decoder", score=score)
        (found,) = net.forward(x, regions=regions).toward([1])
        want = own_gradients(segmenter, x, "decoded", by_hand)
        assert torch.allclose(found.gradients, want, atol=1e-6 * float(want.abs().max()))
        assert float(found.rescore(x, torch.tensor([0]))) == pytest.approx(by_hand(segmenter.model(x)).item(), rel=1e-4)
    # What is predicted stays what it was, when the network is shown something else.
    (seen,) = network(segmenter, score="predicted").forward(x).toward([1])
    dark = torch.zeros_like(x)
    assert float(seen.rescore(dark, torch.tensor([0]))) == pytest.approx(
        segmenter.model(dark)[0, place][predicted].sum().item(), rel=1e-4
    )


@pytest.mark.parametrize("score", ["mean", "predicted"])
def test_every_method_gives_maps_of_the_image(make_segmenter, make_images, score):
    segmenter = make_segmenter(seed=1)
    images = make_images((20, 40), (32, 32))
    cams = compute_cams(segmenter, images, methods=[*GRADIENT, *OTHERS], score=score, layer="last-decoder")
    for name, maps in cams.items():
        assert [cam.shape for cam in maps] == [(20, 40), (32, 32)], name
        assert all(np.isfinite(cam).all() and cam.min() == 0 and cam.max() in (0, 1) for cam in maps), name
    shown = [name for name, maps in cams.items() if all(cam.max() == 1 for cam in maps)]
    assert {*GRADIENT, "eigencam", "saliency", "occlusion"} <= {*shown}
    if score == "mean":  # behind a 1x1 head the map of the last layer is the logits without their bias
        head = segmenter.model.network.segmentation_head[0]
        assert head.kernel_size == (1, 1)
        logits = (segmenter.model(segmenter.preprocess(images[1:]))[0, 0] - head.bias).clamp_min(0).detach().numpy()
        assert np.corrcoef(cams["gradcam"][1].ravel(), logits.ravel())[0, 1] > 0.99


def test_scales_mirror_images_and_layers_of_several(make_segmenter, make_images):
    segmenter = make_segmenter(classes=["ring", "disc"], image_size=64, resize="pad")
    images = make_images((40, 64))
    cams = compute_cams(
        segmenter, images, [["ring", "disc"]], ["gradcam"], scales=(1.0, 1.5), flip=True, layer=["stages"]
    )
    assert {name: cam.shape for name, cam in cams["gradcam"][0].items()} == {"ring": (40, 64), "disc": (40, 64)}
    assert cams["gradcam"][0]["ring"].max() == 1


def test_padding_of_inputs_does_not_count(make_segmenter, make_images):
    segmenter = make_segmenter(image_size=64, resize="pad")
    x = segmenter.preprocess(make_images((32, 64)))
    content = torch.zeros(1, 64, 64, 1, dtype=torch.bool)
    content[0, 16:48] = True
    (seen,) = network(segmenter, score="mean").forward(x, regions=content).toward([0])
    want = own_gradients(segmenter, x, "deepest", lambda out: out[0, 0, 16:48].mean())
    assert torch.allclose(seen.gradients, want, atol=1e-6 * float(want.abs().max()))
    cams = compute_cams(segmenter, make_images((32, 64)), methods=["gradcam"])["gradcam"]
    assert cams[0].shape == (32, 64)


def test_maps_of_inputs_that_the_network_enlarges_lie_where_the_image_does(make_segmenter):
    segmenter = make_segmenter(image_size=40)  # which becomes 64 within
    net = network(segmenter)
    maps = torch.zeros(1, 8, 8)
    maps[0, :, 4] = 1.0  # columns 32 to 39 of 64: the last of the image
    over = net.over_input(maps, 40)
    assert over.shape == (1, 40, 40)
    assert over[0, 0].argmax() >= 35
    assert torch.equal(make_net(make_segmenter).over_input(maps, 64), maps)
    # A column that stands at the image's right stands at the left of its mirror image's map.
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 30:] = (230, 200, 40)
    (cam,) = compute_cams(segmenter, [image], methods=["hirescam"], layer="last-decoder")["hirescam"]
    (both,) = compute_cams(segmenter, [image], methods=["hirescam"], layer="last-decoder", flip=True)["hirescam"]
    assert cam.shape == both.shape == (40, 40)


def make_net(make_segmenter):
    return network(make_segmenter(image_size=64))


def test_layers_by_name_and_never_the_head(make_segmenter):
    segmenter = make_segmenter(image_size=64)
    assert find_layers(segmenter, "auto") == find_layers(segmenter, "bottleneck") == ("deepest",)
    assert find_layers(segmenter, "last-decoder") == ("decoded",)
    assert find_layers(segmenter, "stages") == ("decoded", "deepest")
    names = [layer.name for layer in list_layers(segmenter)]
    assert {"deepest", "decoded"} < {*names}
    assert not [name for name in names if name.startswith("network.segmentation_head")]
    for name in ("network.segmentation_head", "network.segmentation_head.0"):
        with pytest.raises(LayerError, match="classifies the pixels"):
            network(segmenter, layers=name)
    own = as_segmenter(build_segmenter("unet"))
    assert find_layers(own, "stages") == ("dec9", "bridge")
    with pytest.raises(LayerError, match="layer head classifies"):
        network(own, layers="head")


def test_an_empty_prediction_and_an_empty_mask_give_zero_maps(make_segmenter, make_images):
    segmenter, images = make_segmenter(image_size=64), make_images((32, 32), (20, 30))
    segmenter.model.network.segmentation_head[0].bias.data -= 1000.0
    methods = [*GRADIENT, *OTHERS]
    predicted = compute_cams(segmenter, images, methods=methods, score="predicted")
    assert not any(cam.any() for maps in predicted.values() for cam in maps)
    assert compute_cams(segmenter, images, score="mean", methods=["eigencam"])["eigencam"][0].max() == 1
    masks = [np.zeros((32, 32), bool), np.ones((20, 30), bool)]
    empty, full = compute_cams(segmenter, images, score="mask", masks=masks, methods=["eigencam"])["eigencam"]
    assert not empty.any()
    assert full.max() == 1


def test_calls_that_cannot_be_answered(make_segmenter, tiny_classifier, make_images):
    segmenter, images = make_segmenter(), make_images((32, 32))
    mask = np.ones((32, 32), bool)
    for network_, settings, words in [
        (segmenter, {"score": "margin"}, "a segmenter has no score margin"),
        (tiny_classifier, {"score": "mean"}, "a classifier has no score mean"),
        (segmenter, {"score": "mask"}, "go together"),
        (segmenter, {"masks": [mask]}, "go together"),
        (segmenter, {"score": "mask", "masks": [mask, mask]}, "one mask per image"),
        (segmenter, {"score": "mask", "masks": [mask[:9]]}, "as their image is"),
        (segmenter, {"methods": ["finercam"]}, "finercam compares"),
        (segmenter, {"methods": ["sess"]}, "other pixels"),
    ]:
        with pytest.raises(InputError, match=words):
            compute_cams(network_, images, **settings)
