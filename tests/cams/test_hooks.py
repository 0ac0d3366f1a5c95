import pytest
import torch
from torch import nn

from camseg.base.errors import LayerError
from camseg.cams.hooks import hooked, inference


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Sequential(nn.Linear(2, 1)))


def test_hooks_see_and_replace_outputs_while_the_context_lasts(model):
    model.eval()
    x, seen = torch.ones(3, 2), []
    plain = model(x)
    hooks = {"0": lambda _module, _inputs, output: seen.append(output), "2.0": lambda *_: torch.zeros(3, 1)}
    with hooked(model, hooks):
        assert torch.equal(model(x), torch.zeros(3, 1))
    assert [output.shape for output in seen] == [(3, 2)]
    assert torch.equal(model(x), plain)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    {
        "layer": "no layer 'layer'; near it are layer1, ",
        "nothing": "no layer 'nothing'; `camseg layers` lists them",
        "": "no layer ''",
    }.items(),
)
def test_names_that_the_model_lacks(tiny_classifier, name, message):
    model = tiny_classifier.model
    with pytest.raises(LayerError, match=message), hooked(model, {"layer1": lambda *_: None, name: lambda *_: None}):
        pass
    assert not any(module._forward_hooks for module in model.modules())


def test_everything_comes_back_after_an_error(model):
    def interrupted():
        with inference(model), hooked(model, {"0": lambda *_: None}):
            assert not any(module.training for module in model.modules())
            assert not any(parameter.requires_grad for parameter in model.parameters())
            raise KeyboardInterrupt

    model[2].eval()
    model[0].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert not any(module._forward_hooks for module in model.modules())
