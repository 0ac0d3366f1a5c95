import sys
import warnings
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from camseg.base.errors import InputError
from camseg.cams.capture import Capture, Network, capture, network
from camseg.cams.methods.attributions import integrated_gradients, occlusion, saliency
from camseg.cams.methods.eigen import eigencam, eigengradcam
from camseg.cams.methods.folding import folded
from camseg.cams.methods.gradient import NOISE, SAMPLES, smooth_gradcam_plus_plus
from camseg.cams.methods.registry import METHODS, NATIVE
from camseg.cams.methods.scoring import ablationcam, scorecam
from camseg.classify.classifier import Classifier

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_grad_cam as peer
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

PEERS = {
    "gradcam": peer.GradCAM,
    "hirescam": peer.HiResCAM,
    "gradcam-elementwise": peer.GradCAMElementWise,
    "gradcam++": peer.GradCAMPlusPlus,
    "xgradcam": peer.XGradCAM,
    "layercam": peer.LayerCAM,
    "eigencam": peer.EigenCAM,
    "eigengradcam": peer.EigenGradCAM,
    "scorecam": peer.ScoreCAM,
    "ablationcam": peer.AblationCAM,
}
ARCHS = {
    "resnet18": "layer1",
    "mobilenetv2_035": "blocks.1",
    "densenet121": "features.pool0",
    "efficientnet_b0": "blocks.1",
    "convnext_atto": "stages.0",
    "regnety_002": "s1",
    "vgg11": "features.2",
    "legacy_xception": "act1",
}
"""Architectures, each with an early layer of few channels: methods that run the network once per channel take that."""
LARGE = ("vgg11", "densenet121")
"""Those of them that take long."""


def normal(arch, seed=0):
    """A seeded network whose batch norms have seen images, so that activations keep their size through it."""
    torch.manual_seed(seed)
    args = {"mlp_ratio": 0.02} if arch == "vgg11" else {}
    classifier = Classifier.create(arch, classes=["a", "b", "c"], image_size=64, model_args=args)
    classifier.model.to(memory_format=torch.contiguous_format)  # the peer's Score-CAM needs it
    classifier.model.train()
    with torch.no_grad():
        for _ in range(5):
            classifier.model(torch.randn(4, 3, 64, 64))
    classifier.model.eval()
    return classifier


def peer_maps(name, classifier, layer, x, targets):
    """What grad-cam calls the raw map: before ReLU, scaling and resizing, (N, h, w)."""
    method = PEERS[name](model=classifier.model, target_layers=[classifier.model.get_submodule(layer)])
    seen, original = [], method.get_cam_image

    def spy(*args, **kwargs):
        seen.append(original(*args, **kwargs))
        return seen[-1]

    method.get_cam_image = spy
    with method:
        method(input_tensor=x, targets=[ClassifierOutputTarget(target) for target in targets])
    return np.asarray(seen[0])


@pytest.mark.parametrize("arch", [pytest.param(one, marks=pytest.mark.slow if one in LARGE else ()) for one in ARCHS])
def test_maps_equal_the_peer_s(arch, make_images, monkeypatch):
    monkeypatch.setattr("pytorch_grad_cam.score_cam.tqdm.tqdm", iter)
    monkeypatch.setattr("pytorch_grad_cam.ablation_cam.tqdm.tqdm", iter)
    classifier = normal(arch)
    x = classifier.preprocess(make_images((64, 64), (64, 64))).contiguous()
    last = capture(classifier, x, [2, 0])
    early = capture(classifier, x, [2, 0], layer=ARCHS[arch])
    for name in PEERS:
        if name == "ablationcam" and early.activations.min() < 0:
            continue  # where values are negative, the peer sets a channel far below them, not to zero
        captured = early if METHODS[name].needs == "rescoring" else last
        ours = METHODS[name].load()(captured).numpy()
        theirs = peer_maps(name, classifier, captured.layer, x, [2, 0])
        if name == "ablationcam":  # where the score is negative, the peer's map is turned inside out
            scores = captured.network.scores(x, captured.targets).sign()
            theirs = theirs * scores.numpy()[:, None, None]
        assert ours.shape == theirs.shape
        assert np.abs(theirs).max() > 0
        for our, their in zip(ours, theirs, strict=True):
            if name.startswith("eigen") and (our * their).sum() < 0:
                their = -their
            assert np.abs(our - their).max() <= 1e-3 * np.abs(their).max(), name


class Linear(nn.Module):
    """Logits that are weighted sums of the input's values; the layer is the input itself."""

    def __init__(self, weights):
        super().__init__()
        self.layer = nn.Identity()
        self.weights = nn.Parameter(weights)  # (classes, 3, H, W)

    def forward(self, x):
        return torch.einsum("nkij,ckij->nc", self.layer(x), self.weights)


def made_up(model, size=8, classes=("a", "b")):
    """A classifier of a hand-made module."""
    return Classifier(
        model=model,
        arch="made up",
        model_args={},
        classes=classes,
        multi_label=False,
        negative=(),
        image_size=size,
        resize="stretch",
        window="full",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


def make_capture(activations, gradients=None):
    n = len(activations)
    mute = made_up(Linear(torch.zeros(2, 3, 8, 8)))
    return Capture(
        inputs=torch.zeros(n, 3, 8, 8),
        targets=torch.zeros(n, dtype=torch.int64),
        layer="layer",
        activations=activations,
        gradients=gradients,
        network=Network(classifier=mute, layers=("layer",)),
    )


def test_values_by_hand():
    a = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # (1, 2, 1, 2)
    g = torch.tensor([[[[1.0, -3.0]], [[2.0, 2.0]]]])
    captured = make_capture(a, g)
    want = {
        "gradcam": [-1 * 1 + 2 * 3, -1 * 2 + 0],
        "hirescam": [1 + 6, -6 + 0],
        "gradcam-elementwise": [1 + 6, 0 + 0],
        "layercam": [1 + 6, 0 + 0],
        "xgradcam": [(1 - 6) / 3 * 1 + 6 / 3 * 3, (1 - 6) / 3 * 2],
        # alpha: 1 / (2 + 3), 0 where relu(g) is; 4 / (8 + 24), twice
        "gradcam++": [1 / 5 * 1 + 2 * (4 / 32 * 2) * 3, 1 / 5 * 2],
        # The rescored channels are all alike here.
        "scorecam": [2.0, 1.0],
    }
    for name, values in want.items():
        assert METHODS[name].load()(captured)[0, 0].tolist() == pytest.approx(values, rel=1e-5), name


@pytest.fixture
def linear():
    """A linear network's capture, its input x (2, 3, 4, 4) and its weights v (3,) and -v."""
    v = torch.tensor([0.5, -0.25, 0.125])
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    model = Linear(torch.stack([v, -v])[..., None, None].expand(2, 3, 4, 4).clone())
    return capture(made_up(model, 4), x, [0, 1], layer="layer"), x, v


def test_scores_of_channels_by_hand(linear):
    captured, x, v = linear
    shares = (x - x.amin((2, 3), True)) / (x.amax((2, 3), True) - x.amin((2, 3), True))  # (2, 3, 4, 4)
    for n, sign in enumerate((1, -1)):
        scores = torch.stack([sign * (v[:, None, None] * x[n] * shares[n, k]).sum() for k in range(3)])
        want = (scores.softmax(0)[:, None, None] * x[n]).sum(0)
        assert torch.allclose(scorecam(captured)[n], want, atol=1e-5)
        parts = sign * v * x[n].sum((1, 2))
        want = ((parts / parts.sum().abs())[:, None, None] * x[n]).sum(0)
        assert torch.allclose(ablationcam(captured)[n], want, rtol=1e-4, atol=1e-5)


def test_channels_without_a_place_mask_everything(linear):
    captured, x, v = linear
    flat = x.clone()
    flat[:, 1], flat[:, 2] = 0.0, 7.3  # dead, and the same everywhere
    shares = (x[:, 0] - x[:, 0].amin((1, 2), True)) / (x[:, 0].amax((1, 2), True) - x[:, 0].amin((1, 2), True))
    found = scorecam(replace(captured, activations=flat))
    for n, sign in enumerate((1, -1)):
        scores = torch.stack([sign * (v[:, None, None] * x[n] * shares[n]).sum(), torch.zeros(()), torch.zeros(())])
        want = (scores.softmax(0)[:, None, None] * flat[n]).sum(0)
        assert torch.allclose(found[n], want, atol=1e-5)


def test_only_the_channels_that_vary_most_are_tried(linear):
    captured, x, v = linear
    scaled = x * torch.tensor([1.0, 10.0, 3.0])[:, None, None] + torch.tensor([100.0, 0.0, 0.0])[:, None, None]
    captured = replace(captured, activations=scaled)
    # A large mean is no variation: channels 1 and 2 vary most. What is not tried counts as their mean.
    exact = scorecam(captured)
    one, two = (scorecam(replace(captured, score_channels=count)) for count in (1, 2))
    shares = (x - x.amin((2, 3), True)) / (x.amax((2, 3), True) - x.amin((2, 3), True))
    assert torch.allclose(one, scaled.mean(1), rtol=1e-4, atol=1e-4)
    for n, sign in enumerate((1, -1)):
        scores = torch.stack([sign * (v[:, None, None] * x[n] * shares[n, k]).sum() for k in range(3)])
        scores[0] = scores[1:].mean()
        want = (scores.softmax(0)[:, None, None] * scaled[n]).sum(0)
        assert torch.allclose(two[n], want, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(two, exact, rtol=1e-2)
    assert torch.equal(scorecam(replace(captured, score_channels=9)), exact)
    # Set to zero, the channel with the largest mean changes most.
    ablated = ablationcam(replace(captured, score_channels=1))
    for n in range(2):
        assert abs(torch.corrcoef(torch.stack([ablated[n].flatten(), scaled[n, 0].flatten()]))[0, 1]) > 0.9999


def test_batches_are_filled_across_images(make_classifier, make_images, monkeypatch):
    classifier = make_classifier()
    x = classifier.preprocess(make_images((64, 64), (64, 64), (64, 64)))
    captured = capture(classifier, x, [0, 1, 2], layer="layer1")
    whole = scorecam(captured)
    sizes, original = [], Network.scores
    monkeypatch.setattr(Network, "scores", lambda self, *a: sizes.append(len(a[0])) or original(self, *a))
    monkeypatch.setattr("camseg.cams.methods.scoring.BATCH", 20)
    assert torch.allclose(scorecam(captured), whole, atol=1e-4)
    assert [size for size in sizes if size > 1] == [20] * 4 + [3 * 32 - 80]


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv2_035", "densenet121", "convnext_atto", "nf_regnet_b0"])
def test_folding_batch_norms_changes_no_score(arch, make_images):
    classifier = normal(arch)
    x = classifier.preprocess(make_images((64, 64), (64, 64)))
    before = [value.clone() for value in classifier.model.state_dict().values()]
    net = network(classifier)
    targets = torch.tensor([0, 1])
    quick = folded(net, x, targets)
    norms = [m for m in quick.classifier.model.modules() if isinstance(m, nn.BatchNorm2d)]
    count = len([m for m in classifier.model.modules() if isinstance(m, nn.BatchNorm2d)])
    assert (quick is net) == (count == 0)
    assert len(norms) < count or count == 0
    assert torch.allclose(quick.scores(x, targets), net.scores(x, targets), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(before, classifier.model.state_dict().values(), strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in quick.classifier.model.modules())


def test_what_cannot_be_folded_is_left(make_images):
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)
            self.norm.running_mean.fill_(0.3)

        def forward(self, x):
            x = self.conv(x)
            return (x + self.norm(x)).mean((2, 3))

    torch.manual_seed(0)
    net = network(made_up(Forked().eval()), layers="conv")
    assert folded(net, torch.randn(1, 3, 8, 8), torch.tensor([0])) is net


def test_smoothed_powers_by_another_way(make_classifier, make_images):
    classifier = make_classifier()
    x = classifier.preprocess(make_images((64, 64), (64, 64)))
    captured = capture(classifier, x, [0, 2], layer="layer3")
    noise = torch.Generator().manual_seed(0)
    grads = []
    for _ in range(SAMPLES):
        unit = torch.randn(3, 64, 64, generator=noise)
        noisy = torch.stack([image + NOISE * (image.max() - image.min()) * unit for image in x])
        grads.append(capture(classifier, noisy, [0, 2], layer="layer3").gradients.double())
    g = torch.stack(grads)
    for n in range(2):
        want = torch.zeros_like(captured.activations[n, 0], dtype=torch.float64)
        for k, a in enumerate(captured.activations[n].double()):
            d1, d2, d3 = (g[:, n, k] ** power for power in (1, 2, 3))
            d1, d2, d3 = d1.mean(0), d2.mean(0), d3.mean(0)
            alpha = torch.where(d2 > 0, d2 / (2 * d2 + a.sum() * d3 + 1e-6), 0.0)
            want += (alpha * torch.relu(d1)).sum() * a
        found = smooth_gradcam_plus_plus(captured)[n]
        assert want.abs().max() > 0
        assert (found - want).abs().max() < 1e-3 * want.abs().max()


def test_input_attributions_of_a_linear_network(linear):
    captured, x, v = linear
    assert torch.allclose(saliency(captured), torch.full((2, 4, 4), 0.5))
    sign = torch.tensor([1.0, -1.0])[:, None, None]
    assert torch.allclose(integrated_gradients(captured), sign * (v[:, None, None] * x).sum(1), atol=1e-5)
    # Patches of one pixel: what it adds is what is missing without it.
    assert torch.allclose(occlusion(captured), sign * (v[:, None, None] * x).sum(1), atol=1e-4)


def test_integrated_gradients_add_up_to_the_score(make_classifier, make_images):
    classifier = make_classifier()
    x = classifier.preprocess(make_images((64, 64), (40, 90)))
    captured = capture(classifier, x, [0, 2])
    change = captured.network.scores(x, captured.targets) - captured.network.scores(0 * x, captured.targets)
    found = integrated_gradients(captured).sum((1, 2))
    assert change.abs().min() > 0
    assert torch.allclose(found, change, rtol=0.05, atol=0.02 * float(change.abs().max()))


@pytest.mark.parametrize("side", [40, 33, 7])
def test_occlusion_finds_what_the_score_depends_on(side):
    weights = torch.zeros(2, 3, side, side)
    low, high = side // 4, side // 2
    weights[0, :, low:high, low:high] = 1.0
    captured = capture(made_up(Linear(weights), side), torch.ones(1, 3, side, side), [0], layer="layer")
    found = occlusion(captured)[0]
    patch = -(-side // 8)
    assert found[low:high, low:high].min() > 0
    far = torch.ones(side, side, dtype=torch.bool)
    far[max(0, low - patch) : high + patch, max(0, low - patch) : high + patch] = False
    assert not found[far].any()
    assert found.argmax() == found[low:high, low:high].max().eq(found.flatten()).nonzero()[0, 0]


def first_component(image):
    """u_1 s_1 (h w,) by a full decomposition, in float64, of any sign."""
    rows = image.double().flatten(1).T
    u, s, _ = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    return u[:, 0] * s[0]


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1.0, 1e4, 1e12])
@pytest.mark.parametrize(
    "shape", [(3, 40, 3, 5), (3, 4, 6, 5), (2, 1, 4, 4), (2, 9, 3, 3), (1, 1024, 7, 7), (1, 49, 32, 32), (1, 5, 1, 2)]
)
def test_eigencam_is_the_first_component_with_its_sign_fixed(shape, scale):
    torch.manual_seed(0)
    values = scale * (torch.randn(shape) + torch.rand(shape[1])[:, None, None])
    maps = eigencam(make_capture(values))
    assert torch.equal(maps, eigencam(make_capture(values.clone())))
    for image, found in zip(values, maps, strict=True):
        want = first_component(image).float()
        flat = found.flatten()
        assert min((flat - want).abs().max(), (flat + want).abs().max()) < 1e-4 * want.abs().max()
        assert torch.corrcoef(torch.stack([flat, image.flatten(1).norm(dim=0)]))[0, 1] > 0
    three = eigengradcam(make_capture(values, 3 * torch.ones(shape)))
    assert (three - 3 * maps).abs().max() < 1e-4 * maps.abs().max()


@pytest.mark.parametrize("singular", [[1, 0.999, 0.99, 0.9], [1, 0.9999, 0.5], [1, *[0.98] * 6, *[0.7] * 9], [1.0]])
@pytest.mark.parametrize("shape", [(300, 7, 7), (30, 14, 14)])
@pytest.mark.parametrize("mean", [0.0, 1.0, 100.0])
def test_eigencam_tells_close_singular_values_apart(singular, shape, mean):
    torch.manual_seed(0)
    channels, height, width = shape
    # Directions over the positions without mean, so that centring takes only the means away that are added.
    left = torch.randn(height * width, len(singular), dtype=torch.float64)
    left = torch.linalg.qr(left - left.mean(dim=0)).Q
    right = torch.linalg.qr(torch.randn(channels, len(singular), dtype=torch.float64)).Q
    rows = 100 * (left * torch.tensor(singular)) @ right.T + mean * torch.rand(channels)
    image = rows.T.reshape(shape).float()
    want = first_component(image)
    flat = eigencam(make_capture(image[None]))[0].flatten()
    assert min((flat - want).abs().max(), (flat + want).abs().max()) < 1e-4 * want.abs().max()


def test_eigencam_where_nothing_varies():
    for values in (torch.zeros(2, 5, 4, 4), torch.full((2, 5, 4, 4), 0.1), torch.rand(2, 5, 1, 1)):
        assert not eigencam(make_capture(values)).any()


def test_eigencam_of_an_image_does_not_depend_on_the_others():
    torch.manual_seed(0)
    values = torch.randn(5, 64, 7, 7).relu() * torch.tensor([1e-6, 1.0, 1e6, 0.0, 3.0])[:, None, None, None]
    together = eigencam(make_capture(values))
    state = torch.get_rng_state()
    for image, found in zip(values, together, strict=True):
        alone = eigencam(make_capture(image[None]))[0]
        assert (alone - found).abs().max() <= 1e-5 * found.abs().max()
    assert torch.equal(torch.get_rng_state(), state)


def test_eigencam_follows_what_is_active():
    a = torch.zeros(1, 5, 4, 4)
    a[0, :, 1:3, 1:3] = torch.rand(5)[:, None, None] + 1
    inside = a[0, 0] > 0
    found = eigencam(make_capture(a))[0]
    assert found[inside].min() > 0 > found[~inside].max()
    assert not eigencam(make_capture(torch.ones(1, 5, 4, 4))).abs().max() > 1e-6


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.needs == "gradients"])
def test_methods_say_when_they_miss_gradients(name):
    with pytest.raises(InputError, match="gradients"):
        METHODS[name].load()(make_capture(torch.ones(1, 2, 3, 3)))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "sess"])
def test_methods_leave_the_capture_alone(tiny_classifier, make_images, name):
    captured = capture(tiny_classifier, tiny_classifier.preprocess(make_images((64, 64))), [0])
    kept = [tensor.clone() for tensor in (captured.inputs, captured.activations, captured.gradients)]
    first = METHODS[name].load()(captured)
    assert torch.equal(first, METHODS[name].load()(captured))
    for before, after in zip(kept, (captured.inputs, captured.activations, captured.gradients), strict=True):
        assert torch.equal(before, after)


ADAPTED = {
    "finercam": ("FinerCAM", "layer3"),
    "shapleycam": ("ShapleyCAM", "layer3"),
    "kpcacam": ("KPCA_CAM", "layer3"),
    "fem": ("FEM", "layer3"),
    "segeigencam": ("SegEigenCAM", "layer3"),
    "refinecam": ("RefineCAM", "layer2 layer3"),
    "fullgrad": ("FullGrad", ""),
    "sess": ("SESS", "layer3"),
}


def test_every_method_of_grad_cam_is_compared_with_it():
    assert set(ADAPTED) == set(METHODS) - set(NATIVE)


@pytest.mark.parametrize("name", ADAPTED)
def test_adapted_methods_equal_the_library_s(make_classifier, make_images, name):
    """Its own results: scaled to [0, 1] at the input's size, image by image."""
    classifier = make_classifier()
    classifier.model.to(memory_format=torch.contiguous_format)
    x = classifier.preprocess(make_images((64, 64))).contiguous()
    kind, layers = ADAPTED[name]
    net = network(classifier, layers=layers.split() or "layer3")
    logits = net.forward(x).logits[0]
    target = int(logits.argmax())
    ours = METHODS[name].load()(net.forward(x).toward([target])[-1]).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method = getattr(peer, kind)(
            classifier.model, [classifier.model.get_submodule(part) for part in layers.split()]
        )
        chosen = None if name == "finercam" else [ClassifierOutputTarget(target)]
        theirs = method(input_tensor=x.clone().requires_grad_(), targets=chosen)
    if METHODS[name].at == "layer":
        ours = scale_cam_image(np.maximum(ours, 0), (64, 64))
        ours = scale_cam_image(ours)
    assert theirs.max() > 0.5
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 2e-3


def test_finercam_asks_for_the_target_and_the_margin_s_rivals(make_classifier, make_images):
    classifier = make_classifier(negative=["none"])
    x = classifier.preprocess(make_images((64, 64)))
    plain, margin = (capture(classifier, x, [0], layer="layer3", score=score) for score in ("class", "margin"))
    finer = METHODS["finercam"].load()
    # One rival: its weight is 1, and the score is the margin.
    assert torch.allclose(finer(margin), METHODS["gradcam"].load()(margin), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(finer(plain), finer(margin), rtol=0.1)


def test_fullgrad_says_when_it_finds_no_bias(make_images):
    classifier = Classifier.create("mobilenetv2_035", classes=["a", "b"], image_size=64)
    captured = capture(classifier, classifier.preprocess(make_images((64, 64))), [0])
    with pytest.raises(InputError, match="no bias that grad-cam can read in mobilenetv2_035"):
        METHODS["fullgrad"].load()(captured)


def test_adapted_methods_say_what_to_install(tiny_classifier, make_images, monkeypatch):
    captured = capture(tiny_classifier, tiny_classifier.preprocess(make_images((64, 64))), [0])

    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(InputError, match=r"pip install 'camseg\[grad-cam\]'"):
        METHODS["fem"].load()(captured)
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", ModuleType("pytorch_grad_cam"))
    with pytest.raises(InputError, match=r"this grad-cam has no FEM; pip"):
        METHODS["fem"].load()(captured)


@pytest.mark.parametrize("arch", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_adapted_methods_read_other_layouts(make_images, arch):
    torch.manual_seed(0)
    args = {"embed_dim": 24, "depths": (1, 1)} if arch.startswith("swin") else {"embed_dim": 24, "depth": 2}
    args["num_heads"] = (2, 2) if arch.startswith("swin") else 2
    size = 64
    classifier = Classifier.create(arch, classes=["a", "b", "c"], image_size=size, model_args=args)
    x = classifier.preprocess(make_images((size, size), (size, size)))
    captured = capture(classifier, x, [0, 2])
    gradcam = METHODS["gradcam"].load()(captured)
    for name in set(ADAPTED) - {"fullgrad", "sess"}:
        found = METHODS[name].load()(captured)
        assert found.isfinite().all()
        assert found.shape == (gradcam.shape if METHODS[name].at == "layer" else (2, size, size)), name


QUICK = [name for name in METHODS if name != "sess"]


@pytest.mark.parametrize("name", METHODS)
def test_methods_leave_the_network_as_it_was(make_classifier, make_images, capfd, name):
    classifier = make_classifier()
    model = classifier.model.train()
    first, *others = model.parameters()
    first.requires_grad_(False)
    for i, parameter in enumerate(others):
        parameter.grad = torch.full_like(parameter, float(i))
    grads = [parameter.grad for parameter in model.parameters()]
    kept = [value.clone() for value in model.state_dict().values()]
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    captured = capture(classifier, classifier.preprocess(make_images((64, 64))), [0], layer="layer4")
    with torch.no_grad():
        METHODS[name].load()(captured)
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] + [True] * len(others)
    assert all(now.grad is before for now, before in zip(model.parameters(), grads, strict=True))
    assert all(torch.equal(parameter.grad, torch.full_like(parameter, float(i))) for i, parameter in enumerate(others))
    assert all(torch.equal(a, b) for a, b in zip(kept, model.state_dict().values(), strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", QUICK)
def test_a_map_does_not_depend_on_its_batch(make_classifier, make_images, name):
    classifier = make_classifier()
    x = classifier.preprocess(make_images((64, 64), (40, 90), (91, 30)))
    net = network(classifier, layers="layer4")
    targets = [1, 0, 2]
    together = METHODS[name].load()(net.forward(x).toward(targets)[0])
    for n in range(3):
        alone = METHODS[name].load()(net.forward(x[n : n + 1]).toward(targets[n : n + 1])[0])[0]
        assert together[n].shape == alone.shape
        assert (together[n] - alone).abs().max() <= 2e-3 * alone.abs().max()
        assert alone.isfinite().all()
        size = (64, 64) if METHODS[name].at == "input" else (2, 2)
        assert alone.shape == size
