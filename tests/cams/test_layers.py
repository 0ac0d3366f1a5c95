"""Which layer stands for ``auto`` across timm's families, and whether the maps read there can be trusted."""

import warnings

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from camseg.base.errors import LayerError
from camseg.cams.capture import capture
from camseg.cams.compute import compute_cams
from camseg.cams.layers import Layout, find_layer, find_stages, list_layers, stage_layers
from camseg.cams.methods.registry import METHODS
from camseg.classify.classifier import Classifier

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_grad_cam as peer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

CONVOLUTIONAL = ["test_resnet", "test_convnext", "test_efficientnet", "mobilenetv2_035", "regnety_002", "densenet121"]


@pytest.mark.parametrize("arch", CONVOLUTIONAL)
def test_the_last_layer_with_a_map(arch, make_images):
    """All that the scores know of an image comes through it, and behind it nothing is a map any more."""
    classifier = Classifier.create(arch, classes=["a", "b"], image_size=64)
    behind = []

    def forget(_module, _inputs, output):
        behind.clear()
        return output[:1].expand_as(output)  # the first image's map stands for the second's too

    for _, module in classifier.model.named_modules():
        module.register_forward_hook(lambda *call: behind.append(call[2]))
    classifier.model.get_submodule(find_layer(classifier)).register_forward_hook(forget)
    with torch.no_grad():
        first, second = classifier.model(classifier.preprocess(make_images((64, 64), (64, 64))))
    assert torch.equal(first, second)
    assert behind
    assert all(output.ndim == 2 or output.shape[2:] == (1, 1) for output in behind)


def test_small_inputs_have_their_last_map_earlier(make_classifier):
    assert find_layer(make_classifier(image_size=32)) == "layer3"


def test_networks_without_any_map(make_classifier):
    classifier = make_classifier(image_size=8)
    classifier.model.conv1 = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 32, 1))
    with pytest.raises(LayerError, match="no layer of test_resnet gives a map"):
        find_layer(classifier)


WALK = [
    "cait_xxs24_224",
    "coat_tiny",
    "convit_tiny",
    "cpubone_nano",
    "cs3darknet_focus_s",
    "deit_tiny_distilled_patch16_224",
    "densenet121",
    "dla46x_c",
    "edgenext_xx_small",
    "efficientformerv2_s0",
    "efficientvit_b0",
    "fasternet_t0",
    "fastvit_t8",
    "gcvit_xxtiny",
    "ghostnet_050",
    "gmlp_ti16_224",
    "hardcorenas_b",
    "hgnetv2_b0",
    "inception_next_atto",
    "lcnet_035",
    "maxvit_pico_rw_256",
    "mobileone_s1",
    "mobilevit_xxs",
    "pit_ti_224",
    "poolformerv2_s12",
    "pvt_v2_b0",
    "regnetx_002",
    "repghostnet_050",
    "repvit_m1",
    "resnet10t",
    "rexnet_100",
    "skresnet18",
    "starnet_s050",
    "swiftformer_xs",
    "test_convnext",
    "test_efficientnet",
    "test_mambaout",
    "test_nfnet",
    "test_resnet",
    "test_vit",
    "test_vit_relpos",
    "tiny_vit_5m_224",
    "visformer_tiny",
    "vit_tiny_r_s16_p8_224",
    "ese_vovnet19b_slim_dw",
    "xcit_nano_12_p8_224",
]
"""The smallest architecture of many of timm's families; not every version of timm has all of them."""
METHODS_WALKED = ("layercam", "gradcam", "eigencam")


@pytest.mark.parametrize("arch", WALK)
def test_the_layer_and_its_maps_in_many_families(arch, make_classifier, make_images):
    check_maps(arch, make_classifier, make_images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("crossvit_tiny_240", 240),
        ("efficientformer_l1", 224),
        ("halonet_h1", 256),
        ("swin_tiny_patch4_window7_224", 224),
        ("tnt_s_legacy_patch16_224", 224),
        ("volo_d1_224", 224),
    ],
)
def test_the_layer_and_its_maps_in_families_that_want_large_inputs(arch, size, make_classifier, make_images):
    check_maps(arch, make_classifier, make_images, image_size=size)


def check_maps(arch, make_classifier, make_images, **settings):
    if not timm.is_model(arch):
        pytest.skip(f"timm {timm.__version__} has no {arch}")
    classifier, images = make_classifier(arch, **settings), make_images((64, 64), (40, 70))
    wake(classifier)
    layers = list_layers(classifier)
    place = [one.name for one in layers].index(find_layer(classifier))
    found, behind = layers[place], [one for one in layers[place + 1 :] if one.speaks]
    assert min(found.height, found.width) > 1
    # It is the last one: what follows are at most the projections of the attention that reads its tokens.
    assert all(one.layout.kind == found.layout.kind == "tokens" and not one.stage for one in behind)
    captured = capture(classifier, classifier.preprocess(images), [0, 1])
    assert captured.layer == found.name
    assert (captured.gradients != 0).any(dim=1).float().mean() > 0.1  # at most places, not at a class token's only
    assert captured.activations.shape == (2, found.channels, found.height, found.width)
    for name in METHODS_WALKED:
        raw = METHODS[name].load()(captured)
        assert raw.isfinite().all(), name
        # As drawn, random weights may leave nothing above zero.
        assert (raw.amax(dim=(1, 2)) - raw.amin(dim=(1, 2)) > 1e-5 * raw.abs().amax(dim=(1, 2))).all(), name
    for name, cams in compute_cams(classifier, images, ["cat", "dog"], METHODS_WALKED).items():
        for image, cam in zip(images, cams, strict=True):
            assert cam.shape == image.shape[:2], name
            assert np.isfinite(cam).all(), name


def wake(classifier):
    """Some heads start at zero, where no map can say anything."""
    torch.manual_seed(0)
    for parameter in classifier.model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)


def test_heads_that_start_at_zero_hide_no_layer(make_classifier):
    classifier = make_classifier("gmlp_ti16_224")
    assert not classifier.model.head.weight.any()
    assert find_layer(classifier) == "norm"
    assert not classifier.model.head.weight.any()


@pytest.mark.parametrize(("pool", "layer"), [("token", "blocks.5.norm1"), ("avg", "norm"), ("map", "norm")])
def test_what_a_transformer_reads_decides_its_layer(make_classifier, pool, layer):
    classifier = make_classifier("test_vit", model_args={"global_pool": pool, "class_token": pool == "token"})
    assert find_layer(classifier) == layer


class Peak(nn.Module):
    """The score is the highest value of a map."""

    def __init__(self):
        super().__init__()
        self.body, self.read = nn.Conv2d(3, 4, 8, stride=8), nn.Conv2d(4, 3, 5, padding=2)

    def forward(self, x):
        return self.read(self.body(x)).amax(dim=(2, 3))


def test_maps_of_which_a_score_reads_a_few_places_only(make_classifier):
    classifier = make_classifier()
    object.__setattr__(classifier, "model", Peak())
    assert [layer.speaks for layer in list_layers(classifier)] == [True, False]
    assert find_layer(classifier) == "body"


def test_layers_that_run_twice_are_not_listed(make_classifier):
    names = {layer.name for layer in list_layers(make_classifier("coat_tiny"))}
    assert "serial_blocks4.1" in names
    assert not names & {"cpe4", "crpe4"}


def test_the_outline(make_classifier):
    layers = list_layers(make_classifier())
    outline = [layer.name for layer in layers if layer.stage]
    assert [name for name in outline if name.startswith("layer") and "." not in name] == [
        f"layer{n}" for n in range(1, 5)
    ]
    assert {"layer1.0", "layer4.0", "conv1.0"} < set(outline)
    assert "layer4.0.conv1" in {layer.name for layer in layers} - set(outline)
    assert stage_layers(layers) == ("layer3", "layer4")
    assert stage_layers([layer for layer in layers if layer.name.startswith("layer3")]) == ("layer3",)
    assert stage_layers([]) == ()


@pytest.mark.parametrize(
    ("arch", "size", "layers"),
    [
        ("convnext_atto", 96, ("stages.2", "norm_pre")),  # not what the last stage holds before it narrows
        ("densenet121", 96, ("features.transition3.conv", "features")),
        ("efficientnet_b0", 96, ("blocks.4", "bn2")),
        ("mobilenetv2_035", 96, ("blocks.4", "bn2")),
        ("regnety_002", 96, ("s3", "final_conv")),
        ("test_vit", 160, ("blocks.5.norm1",)),
        ("xcit_nano_12_p16_224", 64, ("cls_attn_blocks.1.norm1",)),  # not the stem
    ],
)
def test_stages(arch, size, layers):
    assert find_stages(Classifier.create(arch, classes=["a", "b"], image_size=size)) == layers


def test_parts_without_a_map_are_named_by_their_own_parts(make_classifier):
    layers = {layer.name: layer for layer in list_layers(make_classifier("cait_xxs24_224"))}
    assert "blocks_token_only.1" not in layers  # it gives a class token
    assert layers["blocks_token_only.1.norm1"].stage
    assert not layers["blocks.1.attn"].stage


def test_layouts_there_and_back():
    maps = torch.arange(2 * 3 * 16.0).view(2, 3, 4, 4)
    tokens = torch.cat([torch.full((1, 2, 3), -1.0), maps[:1].flatten(2).transpose(1, 2)], dim=1)
    last = Layout(kind="channels last")
    assert torch.equal(last.maps(maps.permute(0, 2, 3, 1)), maps)
    assert torch.equal(last.output(maps, maps.permute(0, 2, 3, 1)), maps.permute(0, 2, 3, 1))
    stream = Layout(kind="tokens", prefix=2)
    assert torch.equal(stream.maps(tokens), maps[:1])
    assert torch.equal(stream.output(maps, tokens)[:1], tokens)
    assert (stream.output(maps, tokens)[:, :2] == -1).all()


def by_hand(classifier, x, targets, layer):
    """A layer's output and the gradients there, by hooks of the test's own through a whole backward pass."""
    seen = []
    handle = classifier.model.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[2]))
    try:
        logits = classifier.model(x)
    finally:
        handle.remove()
    (slope,) = torch.autograd.grad(logits.gather(1, torch.tensor(targets)[:, None]).sum(), seen[0])
    return seen[0].detach(), slope


def grid_of_tokens(values):
    return values[:, 1:].reshape(len(values), 4, 4, -1)  # after the class token, row by row


@pytest.mark.parametrize(
    ("arch", "layer", "grid", "model_args"),
    [
        ("test_vit", "blocks.5.norm1", grid_of_tokens, {}),
        ("swin_tiny_patch4_window7_224", "norm", lambda values: values, {"embed_dim": 24}),
    ],
)
def test_other_layouts_give_the_maps_of_a_hand_made_computation(
    make_classifier, make_images, arch, layer, grid, model_args
):
    classifier = make_classifier(arch, model_args=model_args)
    x = classifier.preprocess(make_images((64, 64), (64, 64)))
    captured = capture(classifier, x, [2, 0])
    assert captured.layer == layer
    a, g = (grid(values) for values in by_hand(classifier, x, [2, 0], layer))  # (N, h, w, C)
    assert a.shape[1] == a.shape[2] > 1
    want = {
        "gradcam": (g.mean(dim=(1, 2), keepdim=True) * a).sum(dim=3),
        "hirescam": (g * a).sum(dim=3),
        "layercam": (g.clamp_min(0) * a).sum(dim=3),
    }
    for name, maps in want.items():
        assert torch.allclose(METHODS[name].load()(captured), maps, atol=1e-5 * float(maps.abs().max())), name


@pytest.mark.parametrize(
    ("name", "method"), [("gradcam", peer.GradCAM), ("layercam", peer.LayerCAM), ("hirescam", peer.HiResCAM)]
)
def test_maps_of_a_transformer_equal_the_peer_s(make_classifier, make_images, name, method):
    classifier = make_classifier("test_vit")
    x = classifier.preprocess(make_images((64, 64), (64, 64)))
    captured = capture(classifier, x, [2, 0])
    theirs = []

    class Raw(method):
        """Keeps the map before ReLU, scaling and resizing."""

        def get_cam_image(self, *arguments):
            theirs.append(super().get_cam_image(*arguments))
            return theirs[-1]

    block = classifier.model.get_submodule(captured.layer)
    with Raw(classifier.model, [block], lambda tokens: grid_of_tokens(tokens).permute(0, 3, 1, 2)) as run:
        run(input_tensor=x, targets=[ClassifierOutputTarget(2), ClassifierOutputTarget(0)])
    ours = METHODS[name].load()(captured).numpy()
    assert np.abs(theirs[0]).max() > 0
    assert np.abs(ours - theirs[0]).max() <= 1e-3 * np.abs(theirs[0]).max()


SIDE, BOX = 96, 32
"""Of the images with a planted object, and of the object."""


def plant(random, count):
    """Noise, half of it with a textured square: uint8 (count, SIDE, SIDE, 3), and the squares' (top, left)."""
    images = random.integers(60, 190, (count, SIDE, SIDE, 3)).astype(np.uint8)
    corners = random.integers(0, SIDE - BOX + 1, (count // 2, 2))
    texture = np.where(np.indices((BOX, BOX)).sum(axis=0) // 4 % 2, 250, 140).astype(np.uint8)
    for image, (top, left) in zip(images[: count // 2], corners, strict=True):
        image[top : top + BOX, left : left + BOX] = texture[..., None]
    return images, corners


TRAINED = {
    "test_byobnet": (30, 3e-3, "layercam"),
    "test_efficientnet": (40, 3e-3, "layercam"),
    "test_mambaout": (80, 1e-3, "layercam"),
    "test_resnet": (30, 3e-3, "layercam"),
    "test_vit": (60, 1e-3, "layercam"),
}
"""Tiny networks: the steps and the learning rate by which they learn to see a planted object, and the method that
shows it."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(arch, marks=[pytest.mark.slow] * (arch == "test_mambaout")) for arch in TRAINED],
)
def seeing(request):
    """A network that was trained to tell a planted object from noise."""
    steps, rate, _ = TRAINED[request.param]
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    classifier = Classifier.create(request.param, classes=["noise", "object"], image_size=SIDE)
    optimizer = torch.optim.Adam(classifier.model.parameters(), lr=rate)
    truth = torch.tensor([1] * 8 + [0] * 8)
    classifier.model.train()
    for _ in range(steps):
        logits = classifier.model(classifier.preprocess(list(plant(random, 16)[0])))
        optimizer.zero_grad()
        functional.cross_entropy(logits, truth).backward()
        optimizer.step()
    classifier.model.eval()
    return classifier


def test_maps_follow_a_planted_object(seeing):
    images, corners = plant(np.random.default_rng(1), 64)
    with torch.no_grad():
        predicted = seeing.model(seeing.preprocess(list(images))).argmax(dim=1)
    assert (predicted[:32] == 1).float().mean() > 0.9
    assert (predicted[32:] == 0).float().mean() > 0.9
    method = TRAINED[seeing.arch][2]
    cams = compute_cams(seeing, list(images[:32]), ["object"] * 32, [method])[method]
    shares, hits = [], []
    for cam, (top, left) in zip(cams, corners, strict=True):
        shares.append(cam[top : top + BOX, left : left + BOX].sum() / cam.sum())
        y, x = np.unravel_index(cam.argmax(), cam.shape)
        hits.append(max(abs(y - top - BOX / 2), abs(x - left - BOX / 2)) < 0.75 * BOX)
    # A map that knows nothing has a ninth of its mass in the object, and a quarter of its maxima near it.
    assert np.mean(shares) > 2 / 9
    assert np.mean(hits) > 0.6
