import copy
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from camseg.base.errors import InputError, LayerError
from camseg.cams.capture import capture, network, target_scores
from camseg.cams.layers import list_layers
from camseg.classify.classifier import Classifier


@pytest.fixture
def x(tiny_classifier, make_images):
    return tiny_classifier.preprocess(make_images((64, 64), (50, 70), seed=3))


def state(model):
    """Everything that a capture may change and must put back."""
    return {
        name: (module.training, len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
        for name, module in model.named_modules()
    }, {name: (parameter.requires_grad, parameter.grad) for name, parameter in model.named_parameters()}


def leaves(tensor):
    """The leaves that a graph leads back to, and the names of its nodes."""
    found, names, waiting, seen = [], [], [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        names.append(node.name())
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [parent for parent, _ in node.next_functions]
    return found, names


def score_of_activations(classifier, x, layer, activations, targets, score):
    """The scores when ``layer`` gives ``activations``, by a hook of the test's own."""
    handle = classifier.model.get_submodule(layer).register_forward_hook(lambda *_: activations.clone())
    try:
        logits = classifier.model(x)
    finally:
        handle.remove()
    negatives = [classifier.classes.index(name) for name in classifier.negative] if score == "margin" else []
    best = [max((row[k] for k in negatives if k != t), default=0.0) for row, t in zip(logits, targets, strict=True)]
    return sum(row[t] - b for row, t, b in zip(logits, targets, best, strict=True))


def test_shapes_and_values(tiny_classifier, x):
    seen = network(tiny_classifier).forward(x)
    assert seen.network.layers[0] == "layer4"
    assert torch.allclose(seen.logits, tiny_classifier.model(x).detach())
    assert not seen.logits.requires_grad
    captured = seen.toward([0, 2])[0]
    assert captured.activations.shape == captured.gradients.shape == (2, 96, 2, 2)
    assert captured.activations.dtype == captured.gradients.dtype == torch.float32
    assert captured.targets.tolist() == [0, 2]
    assert captured.inputs is x
    assert not captured.activations.requires_grad
    # The head behind layer4 is pooling and one linear layer, so the gradient is known.
    weight = tiny_classifier.model.fc.weight.detach()
    assert torch.allclose(captured.gradients, (weight[[0, 2]] / 4)[..., None, None].expand(2, 96, 2, 2), atol=1e-7)


def test_maps_of_channels_last_networks_come_channels_first(make_classifier, make_images):
    classifier = make_classifier("mambaout_femto")
    captured = capture(classifier, classifier.preprocess(make_images((64, 64))), [1])
    assert captured.layer == "stages"
    assert captured.activations.shape == captured.gradients.shape == (1, 288, 2, 2)


def test_no_gradient_runs_below_the_layer(tiny_classifier, x):
    seen = network(tiny_classifier, layers="layer3").forward(x)
    found, names = leaves(seen.outputs)
    assert len(found) == 1
    assert found[0] is seen.leaves[0]
    behind = [module for module in tiny_classifier.model.layer4.modules() if isinstance(module, nn.Conv2d)]
    assert sum("Convolution" in name for name in names) == len(behind) == 3


def test_without_gradients_no_graph_is_kept(tiny_classifier, x):
    seen = network(tiny_classifier).forward(x, gradients=False)
    assert seen.outputs.grad_fn is None
    assert seen.toward([0, 0])[0].gradients is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_do_not_depend_on_the_caller_s_mode(tiny_classifier, make_images, x, mode):
    want = capture(tiny_classifier, x, [0, 1], score="margin")
    with mode():
        inside = tiny_classifier.preprocess(make_images((64, 64), (50, 70), seed=3))
        got = capture(tiny_classifier, inside, [0, 1], score="margin")
    assert torch.equal(got.gradients, want.gradients)
    assert torch.equal(got.activations, want.activations)


@pytest.mark.parametrize("score", ["class", "margin"])
@pytest.mark.parametrize("layer", ["layer4", "layer2", "layer3.0.conv2"])
def test_gradients_are_those_of_the_score(make_classifier, x, layer, score):
    classifier = make_classifier(classes=["a", "b", "c", "d"], negative=["b", "d"])
    classifier.model.double()
    x = x.double()
    targets = [0, 3]
    captured = capture(classifier, x, targets, layer=layer, score=score)
    activations = network(classifier, layers=layer).forward(x).leaves[0].detach()
    torch.manual_seed(0)
    step = 1e-6 * torch.randn_like(activations)
    with torch.no_grad():
        higher, lower = (
            score_of_activations(classifier, x, layer, activations + sign * step, targets, score) for sign in (1, -1)
        )
    assert float((captured.gradients * step).sum()) == pytest.approx(float(higher - lower) / 2, rel=1e-4)


def test_several_targets_of_one_pass(tiny_classifier, x):
    seen = network(tiny_classifier).forward(x)
    for targets in ([0, 0], [1, 2], [2, 1]):
        assert torch.equal(seen.toward(targets)[0].gradients, capture(tiny_classifier, x, targets).gradients)


def test_target_scores():
    logits = torch.tensor([[1.0, 5.0, 3.0], [1.0, 5.0, 3.0]])
    targets = torch.tensor([0, 1])
    assert target_scores(logits, targets).tolist() == [1.0, 5.0]
    assert target_scores(logits, targets, [1, 2]).tolist() == [-4.0, 2.0]
    # A target that is the only negative class has no rival.
    assert target_scores(logits, targets, [1]).tolist() == [-4.0, 5.0]


def rescored(captured, images, n):
    """The scores of other images for input n's target, as methods ask the capture's network for them."""
    return captured.network.scores(images, captured.targets[n].expand(len(images)))


def test_a_capture_s_network_gives_the_scores_of_other_images(tiny_classifier, x):
    for score, negatives in (("class", []), ("margin", [2])):
        captured = capture(tiny_classifier, x, [1, 0], score=score)
        others = torch.cat([x, x.flip(3)])
        logits = tiny_classifier.model(others).detach()
        for n, target in enumerate([1, 0]):
            want = target_scores(logits, torch.full((4,), target), negatives)
            assert torch.allclose(rescored(captured, others, n), want, atol=1e-6)
    assert not rescored(captured, x, 0).requires_grad


@pytest.mark.parametrize("layer", ["bn1", "layer1.0.bn1", "conv1.1"])
def test_an_in_place_activation_behind_the_layer(tiny_classifier, x, layer):
    captured = capture(tiny_classifier, x, [0, 1], layer=layer)
    assert captured.activations.min() < 0
    calm = copy.deepcopy(tiny_classifier)
    for module in calm.model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    same = capture(calm, x, [0, 1], layer=layer)
    assert torch.equal(captured.activations, same.activations)
    assert torch.equal(captured.gradients, same.gradients)


@pytest.mark.parametrize("arch", ["legacy_xception", "vgg11"])
def test_networks_full_of_in_place_activations(arch, make_images):
    # VGG's wide head of 100 million weights has no part in this.
    args = {"mlp_ratio": 0.02} if arch == "vgg11" else {}
    classifier = Classifier.create(arch, classes=["a", "b"], image_size=64, model_args=args)
    captured = capture(classifier, classifier.preprocess(make_images((64, 64))), [0])
    assert captured.gradients.abs().sum() > 0


def test_modes_flags_and_hooks_come_back(tiny_classifier, x):
    model = tiny_classifier.model
    model.train()
    model.layer2.eval()
    for parameter in model.layer1.parameters():
        parameter.requires_grad_(False)
    before = state(model)
    statistics = model.bn1.running_mean.clone()
    logits = network(tiny_classifier).forward(x).logits
    rescored(capture(tiny_classifier, x, [0, 1]), x, 0)
    assert state(model) == before
    assert torch.equal(model.bn1.running_mean, statistics)
    assert torch.equal(logits, tiny_classifier.model.eval()(x).detach())


def test_modes_flags_and_hooks_come_back_after_an_error(tiny_classifier, x, monkeypatch):
    model = tiny_classifier.model.train()
    before = state(model)
    with pytest.raises(LayerError):
        network(tiny_classifier, layers="fc").forward(x)
    with pytest.raises(RuntimeError, match="channels"):
        network(tiny_classifier).forward(x[:, :2])
    good = capture(tiny_classifier, x, [0, 1])

    def fail(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(model.global_pool, "forward", fail)
    for interrupted in (
        lambda: network(tiny_classifier, layers="layer4").forward(x),
        lambda: list_layers(replace(tiny_classifier, image_size=48)),  # not yet known at this size
        lambda: rescored(good, x, 0),
    ):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert state(model) == before


def test_the_graph_is_freed_with_the_forward(tiny_classifier, x):
    seen = network(tiny_classifier).forward(x)
    graph = weakref.ref(seen.outputs)
    (captured,) = seen.toward([0, 1])
    del seen
    assert graph() is None
    assert rescored(captured, x, 1).shape == (2,)


def test_calls_that_cannot_be_answered(tiny_classifier, make_classifier, x):
    seen = network(tiny_classifier).forward(x)
    for targets in ([0], [0, 1, 2], []):
        with pytest.raises(InputError, match=f"2 images, {len(targets)} targets"):
            seen.toward(targets)
    with pytest.raises(InputError, match="margin needs a negative class"):
        capture(make_classifier(), x, [0, 1], score="margin")


def test_layers_without_a_map_cannot_be_used(tiny_classifier, x):
    with pytest.raises(LayerError, match=r"layer fc gives \(2, 3\), not a map"):
        network(tiny_classifier, layers="fc").forward(x)


class Odd(nn.Module):
    """One layer runs twice, one never, one gives a pair, one leads nowhere."""

    def __init__(self):
        super().__init__()
        self.twice, self.never, self.pair = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Identity()
        self.aside, self.on_the_way = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        self.aside(x)
        self.pair((x, x))
        return self.on_the_way(self.twice(self.twice(x))).mean(dim=(2, 3))


def test_layers_of_an_odd_network(make_classifier, x):
    classifier = make_classifier()
    object.__setattr__(classifier, "model", Odd())
    assert capture(classifier, x, [0, 1], layer="on_the_way").gradients.shape == x.shape
    for layer, message in {
        "twice": "twice ran 2 times",
        "never": "never ran 0 times",
        "pair": "pair gives tuple, not a map",
        "aside": "scores do not depend on layer aside",
    }.items():
        with pytest.raises(LayerError, match=message):
            capture(classifier, x, [0, 1], layer=layer)
