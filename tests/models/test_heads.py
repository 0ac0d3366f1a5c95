"""Plug-in heads: what each calculates, and that a pretrained backbone stays what it was."""

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from scipy import ndimage
from torch import nn

from camseg.base.errors import CheckpointError, InputError
from camseg.cams.capture import network
from camseg.cams.compute import compute_cams
from camseg.cams.layers import find_guide, find_stages
from camseg.cams.methods.registry import METHODS
from camseg.classify.checkpoint import load_classifier, load_network
from camseg.classify.classifier import Classifier
from camseg.models.building import create_model, normalisation, pretrained_classes
from camseg.models.heads import HEADS, LogSumExp, MixedAttention, ResidualPath, SpatialBoundary
from camseg.models.weights import head_parameters

ALL = "+".join(HEADS)
SWIN = {"embed_dim": 24, "img_size": 64}


def wake(model, seed=0):
    """Take every head off the identity that it starts as."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("mab.scale", "rph.scale", "sbr.weight"):
                parameter.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize(
    ("arch", "args"),
    [("test_resnet", {}), ("test_efficientnet", {}), ("swin_tiny_patch4_window7_224", SWIN), ("med_ic", {})],
)
def test_heads_begin_as_the_identity_and_then_matter(arch, args):
    model = create_model(f"{arch}+{ALL}", 3, model_args=args).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain = model.backbone(x)
        assert torch.allclose(model(x), plain, atol=1e-5)
    assert torch.allclose(wake(model)(x), plain, atol=1e-5) is False
    model(x).square().sum().backward()
    # A bias of all keys moves every product with a query alike, which softmax takes off again.
    still = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert [name for name in still if name.split(".")[0] in HEADS] in ([], ["mab.key.bias"])


def test_attention_equals_a_loop_over_places():
    torch.manual_seed(0)
    head = MixedAttention(16).requires_grad_(False)
    head.scale.fill_(0.7)
    maps = torch.randn(1, 16, 3, 4)
    columns = maps[0].flatten(1)  # (C, h w)

    def through(layer):
        return layer.weight[:, :, 0, 0] @ columns + layer.bias[:, None]

    query, key, value = through(head.query), through(head.key), through(head.value)
    assert query.shape == (2, 12)
    want = columns.clone()
    for place in range(12):
        weights = torch.softmax(torch.stack([query[:, place] @ key[:, other] for other in range(12)]) / 2**0.5, 0)
        want[:, place] += 0.7 * sum(weights[other] * value[:, other] for other in range(12))
    assert torch.allclose(head(maps, maps)[0].flatten(1), want, atol=1e-5)


def test_the_residual_path_sees_the_neighbours_and_no_statistics():
    torch.manual_seed(0)
    head = ResidualPath(8).requires_grad_(False)
    head.scale.fill_(1.0)
    maps = torch.randn(2, 8, 5, 5)
    assert torch.allclose(head(maps, maps) - maps, head.path(maps), atol=1e-6)
    # Alone or in a batch, in training or not: the same.
    assert torch.allclose(head.train()(maps, maps)[:1], head.eval()(maps[:1], maps), atol=1e-6)
    assert not list(head.buffers())


def test_edges_are_those_of_a_sobel_filter():
    random = np.random.default_rng(0)
    images = random.normal(size=(2, 3, 12, 10)).astype(np.float32)
    found = SpatialBoundary(4).edges(torch.from_numpy(images), (4, 5))[:, 0].numpy()
    for image, edges in zip(images, found, strict=True):
        grey = image.mean(axis=0)
        strength = np.hypot(ndimage.sobel(grey, 0, mode="nearest"), ndimage.sobel(grey, 1, mode="nearest"))
        averaged = strength.reshape(4, 3, 5, 2).mean(axis=(1, 3))
        assert np.allclose(edges, averaged / averaged.max(), atol=1e-5)


def test_boundaries_are_refined_where_there_are_some():
    head = SpatialBoundary(2).requires_grad_(False)
    head.weight[1] = 3.0
    image = torch.zeros(1, 3, 8, 8)
    image[..., 4:] = 1.0
    maps = torch.ones(1, 2, 4, 4)
    refined = head(maps, image)[0]
    assert torch.allclose(refined[0], torch.ones(4, 4))
    assert torch.allclose(refined[1, 0], torch.tensor([1.0, 4.0, 4.0, 1.0]), atol=1e-4)
    flat = head(maps, torch.full((1, 3, 8, 8), 0.4))
    assert torch.allclose(flat, maps, atol=0.01)
    # With respect to a flat image too there is a gradient.
    image = torch.zeros(1, 3, 8, 8, requires_grad=True)
    head(maps, image).sum().backward()
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_edges_are_found_in_float32_in_half_precision_too(dtype):
    head = SpatialBoundary(2).requires_grad_(False)
    head.weight.fill_(1.0)
    images = torch.zeros(2, 3, 8, 8)
    images[1] = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    images.requires_grad_()
    maps = torch.ones(2, 2, 4, 4)
    whole = head(maps, images)
    with torch.autocast("cpu", dtype=dtype):
        half = head(maps, images)
        assert head.edges(images.to(dtype), (4, 4)).dtype == torch.float32
    assert torch.equal(half, whole)
    half.sum().backward()
    assert torch.isfinite(images.grad).all()  # on the flat image too
    assert images.grad[1].any()


def test_what_is_stated_of_the_backbone_passes_through():
    model, plain = create_model("test_resnet+mab", 5), create_model("test_resnet", 5)
    assert normalisation(model) == normalisation(plain)
    assert pretrained_classes(model) == pretrained_classes(plain)
    assert model.num_classes == 5
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    warm = {names[id(parameter)] for parameter in head_parameters(model)}
    assert warm == {"backbone.fc.weight", "backbone.fc.bias", *(name for name in names.values() if name[:4] == "mab.")}


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("test_resnet+xyz", "no head 'xyz'; there are mab, rph, sbr"),
        ("test_resnet+", r"expected BACKBONE or BACKBONE\+HEAD"),
        ("+mab", r"expected BACKBONE or BACKBONE\+HEAD"),
        ("", r"expected BACKBONE or BACKBONE\+HEAD"),
        ("test_resnet+mab+MAB", "each head once"),
        ("test_vit+mab", r"gives features \(1, 17, 64\), not maps"),
        ("vit_minimal+sbr", "convolutional networks and to transformers with maps, such as swin"),
    ],
)
def test_heads_that_cannot_be_joined(arch, message):
    with pytest.raises(InputError, match=message):
        Classifier.create(arch, classes=["a", "b"], image_size=64)


def test_a_network_without_features_takes_no_heads(monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda *_, **__: nn.Conv2d(3, 2, 1))
    with pytest.raises(InputError, match="Conv2d keeps no maps apart"):
        create_model("test_resnet+mab", 2)


def test_a_backbone_s_weights_load_below_heads(tmp_path):
    torch.manual_seed(1)
    state = create_model("test_resnet", 5).state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors", {"arch": "test_resnet"})
    for classes in (["a", "b"], list("abcde")):
        model = Classifier.create(
            "test_resnet+rph+sbr", classes=classes, image_size=64, weights=tmp_path / "w.safetensors"
        ).model
        own = model.backbone.state_dict()
        assert all(torch.equal(own[name], state[name]) for name in own if not name.startswith("fc."))
        assert torch.equal(own["fc.bias"], state["fc.bias"]) == (len(classes) == 5)
        # A new classifier is calmed; heads start as they are made.
        assert (own["fc.weight"].std() < 0.02) == (len(classes) == 2)
        assert (model.rph.path[1].weight == 1).all()
        assert model.rph.path[0].weight.std() > 0.02
    with pytest.raises(InputError, match="choose that model"):
        Classifier.create("test_convnext+rph", classes=["a"], weights=tmp_path / "w.safetensors")
    del state["layer1.0.conv1.weight"]
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"1 are missing \(first \['backbone.layer1.0.conv1.weight'\]"):
        Classifier.create("test_resnet+rph", classes=["a"], image_size=64, weights=tmp_path / "w.safetensors")


def test_a_run_s_weights_bring_their_heads(tmp_path, make_classifier):
    first = make_classifier("test_resnet+mab", seed=1)
    wake(first.model)
    first.save(tmp_path)
    again = make_classifier("test_resnet+mab", weights=tmp_path / "model.safetensors").model
    assert all(
        torch.equal(value, again.state_dict()[name])
        for name, value in first.model.state_dict().items()
        if "running" not in name
    )
    more = make_classifier("test_resnet+mab+rph", weights=tmp_path / "model.safetensors").model
    assert torch.equal(more.mab.scale, first.model.mab.scale)
    with pytest.raises(CheckpointError, match="have no place"):
        make_classifier("test_resnet+sbr", weights=tmp_path / "model.safetensors")


def test_imagenet_weights_are_those_of_the_backbone(monkeypatch):
    asked = []

    def create(name, pretrained, num_classes, **args):
        asked.append((name, pretrained))
        return original(name, num_classes=num_classes, **args)

    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    classifier = Classifier.create("test_resnet+mab", classes=["a", "b"], weights="imagenet", image_size=64)
    assert asked == [("test_resnet", True)]
    assert classifier.model.backbone.fc.weight.std() < 0.02


# One method of gradients, and where the network is small one that runs it again from the layer on. In some versions of
# timm a swin takes inputs of its own size only.
@pytest.mark.parametrize(
    ("arch", "size", "args", "methods"),
    [
        (f"test_resnet+{ALL}", 64, {}, ["layercam", "ablationcam"]),
        ("test_convnext+sbr+mab", 64, {}, ["layercam", "ablationcam"]),
        ("swin_tiny_patch4_window7_224+mab+rph", 64, {"embed_dim": 24}, ["layercam"]),
        ("MedIC+MAB+SBR", 28, {}, ["layercam", "scorecam"]),
    ],
)
def test_saved_and_loaded_heads_give_equal_cams(tmp_path, make_classifier, make_images, arch, size, args, methods):
    classifier = make_classifier(arch, image_size=size, model_args=args)
    wake(classifier.model)
    classifier.save(tmp_path)
    again = load_classifier(tmp_path)
    assert again.arch == classifier.arch == arch.replace("MedIC", "med_ic").lower()
    assert again.fingerprint() == classifier.fingerprint()
    last = classifier.arch.split("+")[-1]
    assert find_stages(classifier)[-1] == find_stages(again)[-1] == last
    images = make_images((40, 50), (64, 64))
    ours, theirs = (
        compute_cams(one, images, ["dog", "cat"], methods, scales=(1.0,) if "swin" in arch else (1.0, 1.5))
        for one in (classifier, again)
    )
    for method in methods:
        for own, other in zip(ours[method], theirs[method], strict=True):
            assert np.array_equal(own, other)
        assert max(cam.max() for cam in ours[method]) > 0


def test_heads_and_a_lower_output_stride(make_classifier, make_images):
    classifier = make_classifier("resnet10t+mab+sbr", image_size=64)
    finer = classifier.with_output_stride(16)
    x = finer.preprocess(make_images((64, 64)))
    assert finer.model.backbone.forward_features(x).shape[-2:] == (4, 4)
    assert finer.model(x).shape == (1, 3)


def test_log_sum_exp_pooling_by_hand():
    torch.manual_seed(0)
    pooling = LogSumExp(4, 3, absent=[1], sharpness=5.0).eval()  # its norm is the identity before it has seen anything
    with torch.no_grad():
        pooling.rest.copy_(torch.tensor([7.0, 0.5, 7.0]))
    maps = torch.randn(2, 4, 3, 5)
    scores = torch.einsum("kc,nchw->nkhw", pooling.scores.weight[..., 0, 0], maps) + pooling.scores.bias[:, None, None]
    expected = (5 * scores).exp().mean(dim=(2, 3)).log() / 5
    expected[:, 1] = 0.5
    assert torch.allclose(pooling(maps), expected, atol=1e-4)
    # A large score anywhere decides: near the maximum, not the mean.
    assert (expected[:, 0] > scores[:, 0].mean(dim=(1, 2))).all()
    assert (expected[:, 0] <= scores[:, 0].amax(dim=(1, 2))).all()


@pytest.mark.parametrize("arch", ["test_vit+lse", "test_resnet+lse", "test_resnet+rph+lse"])
def test_pooling_heads_classify_in_the_backbone_s_place(arch, tmp_path, make_images):
    torch.manual_seed(0)
    size = 160 if "vit" in arch else 64
    classifier = Classifier.create(arch, classes=["a", "none", "b"], negative=["none"], image_size=size)
    assert classifier.head_layers == ("lse.scores",)
    assert find_stages(classifier)[-1] == "lse.lifted"
    # What is alike, the features in front of it say, not its scores.
    assert find_guide(classifier) == ("backbone.norm" if "vit" in arch else "backbone.layer3.0")
    assert not any("head" in name or name.startswith("backbone.fc") for name, _ in classifier.model.named_parameters())
    images = make_images((64, 64), (40, 70))
    x = classifier.preprocess(images)
    with torch.inference_mode():
        logits = classifier.model(x)
    assert torch.equal(logits[:, 1], classifier.model.lse.rest[1].expand(2))
    # Its scores are the map: a channel is a class, and the target's alone has a slope.
    (seen,) = network(classifier, layers="lse.lifted").forward(x).toward([2, 2])
    cam = METHODS["gradcam"].load()(seen)
    assert torch.allclose(
        cam / cam.amax(dim=(1, 2), keepdim=True),
        seen.activations[:, 2] / seen.activations[:, 2].amax(dim=(1, 2), keepdim=True),
        atol=1e-5,
    )
    classifier.save(tmp_path)
    again = load_network(tmp_path)
    assert again.model_args["absent"] == "1"
    with torch.inference_mode():
        assert torch.equal(again.model(x), logits)


def test_weights_of_a_backbone_fit_below_a_pooling_head(tmp_path):
    backbone = create_model("test_resnet", 5)
    safetensors.torch.save_file(backbone.state_dict(), tmp_path / "weights.safetensors", {"arch": "test_resnet"})
    classifier = Classifier.create(
        "test_resnet+lse", classes=["a", "b"], image_size=64, weights=tmp_path / "weights.safetensors"
    )
    own, theirs = classifier.model.backbone.state_dict(), backbone.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert theirs.keys() - own.keys() == {"fc.weight", "fc.bias"}


def test_pooling_heads_come_last():
    with pytest.raises(InputError, match="the head lse pools maps, so it comes last"):
        create_model("test_resnet+lse+rph", 2)
