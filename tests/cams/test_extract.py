"""Batches through the network at several scales and layers, and what happens when memory runs out."""

import numpy as np
import pytest
import torch

from camseg import compute_cams
from camseg.base.errors import InputError, LayerError
from camseg.cams.capture import network
from camseg.cams.extract import BatchLimit, extract, stack_inputs
from camseg.cams.fusion import scale_weights
from camseg.cams.methods.registry import METHODS
from camseg.cams.plan import plan
from camseg.cams.settings import WEIGHED, CamSettings
from camseg.segment.segmenter import Segmenter


@pytest.fixture
def scarce(tiny_classifier):
    """A network on a device that takes only so many images at once, and the sizes of the batches it was given."""

    def limit(most):
        sizes = []

        def refuse(_module, inputs):
            sizes.append(len(inputs[0]))
            if len(inputs[0]) > most:
                raise torch.OutOfMemoryError("out of memory")

        tiny_classifier.model.register_forward_pre_hook(refuse)
        return tiny_classifier, sizes

    return limit


def squares_of(ready, images):
    return stack_inputs([ready.inputs({"full": image}) for image in images])


def test_a_batch_that_does_not_fit_is_halved_and_said_once(scarce, make_images):
    classifier, sizes = scarce(2)
    ready = plan(classifier, CamSettings(methods=("layercam",), scales=(1.0, 1.5), layers=("layer3",)))
    sizes.clear()
    said = []
    limit = BatchLimit(said.append)
    squares = squares_of(ready, make_images(*[(64, 64)] * 7))
    targets = [[0], [1], [0], [2], [], [0, 1], [1]]
    found = extract(ready, squares, lambda n, _: targets[n], limit)
    assert sizes[:3] == [7, 3, 1]  # the batch, its half, a quarter
    assert max(sizes[2:]) == 1
    assert len(said) == 1
    assert "7 images at once do not fit" in said[0]
    assert found.targets == targets
    assert found.probabilities.shape == (7, 3)
    # The next batch begins with what fitted.
    sizes.clear()
    extract(ready, squares, lambda n, _: targets[n], limit)
    assert max(sizes) == 1
    assert len(said) == 1
    for n, row in enumerate(targets):
        (alone,) = extract(ready, [square[n : n + 1] for square in squares], lambda _n, _p, row=row: row).maps[
            "layercam"
        ]
        for got, want in zip(found.maps["layercam"][n], alone, strict=True):
            assert np.allclose(got, want, atol=1e-5)


def test_memory_that_does_not_hold_one_image_ends_the_work(scarce, make_images):
    classifier, sizes = scarce(1)
    ready = plan(classifier, CamSettings(scales=(1.0,), layers=("layer3",)))
    squares = squares_of(ready, make_images((64, 64), (64, 64)))
    classifier.model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none left")))
    with pytest.raises(torch.OutOfMemoryError):
        extract(ready, squares, lambda *_: [0])
    assert sizes[-2:] == [2, 1]


def test_several_layers_are_averaged(tiny_classifier, make_images):
    images, targets = make_images((64, 64), (50, 70)), ["cat", "dog"]
    settings = {"methods": "gradcam", "raw": True, "scales": (1.0, 1.5), "flip": True}
    together = compute_cams(tiny_classifier, images, targets, layer=["layer2", "layer4"], **settings)["gradcam"]
    apart = [
        compute_cams(tiny_classifier, images, targets, layer=name, **settings)["gradcam"]
        for name in ("layer2", "layer4")
    ]
    for both, first, last in zip(together, *apart, strict=True):
        assert first.any()
        assert last.any()
        assert np.allclose(both, (first + last) / 2, atol=1e-6)


def test_several_layers_of_one_pass_have_the_captures_of_single_ones(tiny_classifier, make_images):
    x = tiny_classifier.preprocess(make_images((64, 64), (50, 70)))
    names = ("layer4", "layer2", "layer3.0.conv2")
    for together, name in zip(network(tiny_classifier, layers=names).forward(x).toward([0, 1]), names, strict=True):
        (alone,) = network(tiny_classifier, layers=name).forward(x).toward([0, 1])
        assert together.layer == name
        assert torch.allclose(together.activations, alone.activations, atol=1e-6)
        assert torch.allclose(together.gradients, alone.gradients, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_runs_up_to_the_layer_only(tiny_classifier, make_images, precision):
    x = tiny_classifier.preprocess(make_images((64, 64), (50, 70)))
    (exact,) = network(tiny_classifier).forward(x).toward([0, 1])
    seen = network(tiny_classifier, precision=precision).forward(x)
    (rounded,) = seen.toward([0, 1])
    assert rounded.activations.dtype == seen.logits.dtype == torch.float32
    assert not torch.equal(rounded.activations, exact.activations)
    assert torch.allclose(rounded.activations, exact.activations, atol=0.05 * float(exact.activations.abs().max()))
    # Behind the layer lie pooling and one linear layer, so the gradient does not depend on the activations.
    assert torch.equal(rounded.gradients, exact.gradients)
    for name in ("layercam", "eigencam"):
        want = METHODS[name].load()(exact)
        assert (METHODS[name].load()(rounded) - want).abs().max() < 0.05 * want.abs().max()
    assert not torch.is_autocast_enabled("cpu")


def test_reduced_precision_takes_what_went_past_the_layer(make_classifier, make_images):
    residual = make_classifier("resnet10t", image_size=64)  # whose shortcuts begin before the layer
    segmenter = Segmenter.create("attention-unet", classes=("thing",), image_size=64, weights="none")
    for one, layer, score in ((residual, "layer4.0.conv1", "class"), (segmenter, "bottleneck", "mean")):
        x = one.preprocess(make_images((64, 64)))
        (exact,) = network(one, layers=layer, score=score).forward(x).toward([0])
        (rounded,) = network(one, layers=layer, score=score, precision="bf16").forward(x).toward([0])
        assert rounded.gradients.dtype == torch.float32
        scale = float(exact.activations.abs().max())
        assert torch.allclose(rounded.activations, exact.activations, atol=0.05 * scale)


def test_auto_scales_leave_out_what_the_network_refuses(make_classifier, make_images):
    fixed = make_classifier("test_vit", image_size=160, model_args={"dynamic_img_size": False})
    assert plan(fixed, CamSettings(scales="auto")).members[0].scales == (1.0,)
    with pytest.raises(InputError, match=r"test_vit cannot take inputs of 240 pixels .*--scales"):
        plan(fixed, CamSettings(scales=(1.0, 1.5)))
    assert plan(fixed, CamSettings(effort="balanced")).members[0].scales == (1.0,)
    assert plan(make_classifier(), CamSettings(scales="auto")).members[0].scales == (0.75, 1.0, 1.5, 2.0)


def test_what_is_given_of_views_comes_before_the_effort():
    mixed = CamSettings(effort="best", scales=(1.5,))
    assert (mixed.tried_scales, mixed.weighs, mixed.mirrors) == ((1.5,), False, True)
    assert not CamSettings(effort="best", flip=False).mirrors


def test_settings_that_cannot_be(tiny_classifier):
    for changes, message in (
        ({"scales": "some"}, "expected scales: .* or 'auto' or 'few'; got 'some'"),
        ({"score_channels": 0}, "expected score channels: .* 1; got 0"),
        ({"precision": "fp8"}, "expected precision: 'float32', 'bf16' or 'fp16'; got 'fp8'"),
        ({"layers": ()}, "expected layers: .*at least 1 .*"),
        ({"layer": "layer4"}, "unknown setting 'layer'; choose among methods, score, layers, "),
    ):
        with pytest.raises(InputError, match=message):
            CamSettings(**changes)
    with pytest.raises(InputError, match="at least one layer"):
        network(tiny_classifier, layers=())
    with pytest.raises(InputError, match="different layers, got layer4, layer4"):
        plan(tiny_classifier, CamSettings(layers=("auto", "layer4")))
    with pytest.raises(LayerError, match="no layer 'layer9'"):
        plan(tiny_classifier, CamSettings(layers=("layer4", "layer9")))


def blob(side, share):
    """A map of ones in a square that covers ``share`` of it, zero elsewhere: (side, side)."""
    found = torch.zeros(side, side)
    edge = round(side * share**0.5)
    found[:edge, :edge] = 1.0
    return found


def test_small_objects_are_read_enlarged_and_large_ones_whole():
    small, fitting, large = (blob(100, share).expand(4, 100, 100) for share in (0.01, 0.25, 0.81))
    weights = scale_weights(torch.stack([small, fitting, large], dim=1), WEIGHED["auto"])  # (4, 3)
    assert torch.allclose(weights.sum(dim=0), torch.ones(3))
    best = [WEIGHED["auto"][i] for i in weights.argmax(dim=0)]
    assert best == [2.0, 1.0, 0.75]
    # By hand for the one that fits: a Gaussian of deviation 0.5 in log(scale) around scale 1.
    by_hand = torch.tensor([np.exp(-(np.log(scale) ** 2) / 0.5) for scale in WEIGHED["auto"]], dtype=torch.float32)
    assert torch.allclose(weights[:, 1], by_hand / by_hand.sum(), atol=1e-5)


def test_weights_do_not_depend_on_the_maps_range_nor_on_other_images():
    maps = torch.rand(3, 5, 2, 20, 20, generator=torch.Generator().manual_seed(0))
    weights = scale_weights(maps, (0.75, 1.0, 2.0))
    assert weights.shape == (3, 5, 2)
    assert torch.allclose(scale_weights(7.0 * maps + 3.0, (0.75, 1.0, 2.0)), weights, atol=1e-5)
    assert torch.allclose(scale_weights(maps[:, 2:3], (0.75, 1.0, 2.0)), weights[:, 2:3], atol=1e-6)
    assert torch.isfinite(scale_weights(torch.zeros(2, 1, 4, 4), (1.0, 2.0))).all()


def test_auto_is_the_weighted_sum_of_its_scales(tiny_classifier, make_images):
    images, targets = make_images((64, 64), (64, 64)), ["cat", "dog"]
    ready = plan(tiny_classifier, CamSettings(scales="auto", layers=("layer3",)))
    found = extract(ready, squares_of(ready, images), lambda n, _: [n]).maps["layercam"]
    apart = []
    for scale in WEIGHED["auto"]:
        single = plan(tiny_classifier, CamSettings(scales=(scale,), layers=("layer3",)))
        maps = extract(single, squares_of(single, images), lambda n, _: [n]).maps["layercam"]
        apart.append(torch.from_numpy(np.stack([row[0][0] for row in maps])))
    stack = torch.stack(apart)  # (scales, 2, S, S)
    want = (stack * scale_weights(stack, WEIGHED["auto"])[..., None, None]).sum(dim=0)
    for row, grid in zip(found, want, strict=True):
        assert np.allclose(row[0][0], grid.numpy(), atol=1e-5)
    assert len(compute_cams(tiny_classifier, images, targets, scales="auto")["layercam"]) == 2


def test_finer_layers_are_raised_before_they_are_averaged(tiny_classifier, make_images):
    images = make_images((64, 64))
    ready = plan(tiny_classifier, CamSettings(layers=("stages",)))
    assert ready.members[0].network.layers == ("layer3", "layer4")
    (row,) = extract(ready, squares_of(ready, images), lambda *_: [0]).maps["layercam"]
    x = tiny_classifier.preprocess(images)
    want = torch.zeros(1, 1, 64, 64)
    for captured in ready.members[0].network.forward(x).toward([0]):
        maps = METHODS["layercam"].load()(captured).clamp_min(0)
        maps = maps / maps.max()
        maps = torch.tanh(2 * maps) if captured.layer == "layer3" else maps
        want += torch.nn.functional.interpolate(maps[:, None], size=(64, 64), mode="bilinear") / 2
    assert np.allclose(row[0][0], want[0, 0].numpy(), atol=1e-5)


def test_larger_views_come_in_smaller_batches(tiny_classifier, make_images):
    sizes = []
    tiny_classifier.model.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[:3:2])))
    ready = plan(tiny_classifier, CamSettings(scales=(0.5, 1.0, 2.0), layers=("layer3",)))
    sizes.clear()
    extract(ready, squares_of(ready, make_images(*[(64, 64)] * 9)), lambda *_: [0])
    assert sizes == [(9, 64), (9, 32), *[(2, 128)] * 4, (1, 128)]
