import pytest
import torch
from torch import nn

from camseg.base.errors import InputError
from camseg.models.building import create_model
from camseg.train.freezing import freeze_others, learning_parameters


def named(model, chosen):
    known = {id(parameter) for parameter in chosen}
    return [name for name, parameter in model.named_parameters() if id(parameter) in known]


def test_the_last_third_of_the_blocks():
    model = create_model("test_resnet", 2)  # ten blocks: three convolutions and two norms in conv1, bn1, four layers
    assert {name.split(".")[0] for name in named(model, learning_parameters(model, "last-stages"))} == {
        "layer2", "layer3", "layer4", "fc",
    }  # fmt: skip
    assert named(model, learning_parameters(model, "head")) == ["fc.weight", "fc.bias"]
    assert len(learning_parameters(model, "all")) == len(list(model.parameters()))


@pytest.mark.parametrize("arch", ["mobilenetv2_100", "test_vit", "test_convnext", "vit_minimal", "test_resnet+mab+sbr"])
def test_every_architecture_has_last_stages(arch):
    model = create_model(arch, 2)
    names = [name for name, _ in model.named_parameters()]
    head, last = (named(model, learning_parameters(model, kind)) for kind in ("head", "last-stages"))
    assert set(head) < set(last) < set(names)
    own = [name for name in names if name.startswith("backbone.")] or names
    assert own[0] not in last
    assert last == names[names.index(last[0]) :]  # without a gap, to the end


def test_what_is_frozen_stays_as_it_is():
    torch.manual_seed(0)
    model = create_model("test_resnet", 2, model_args={"drop_rate": 0.5})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze_others(model, learning_parameters(model, "last-stages"))
    assert model.training
    assert not model.bn1.training
    assert not model.layer1.training
    assert model.layer2[0].bn1.training
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model(torch.rand(4, 3, 32, 32)).sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"layer2", "layer3", "layer4", "fc"}
    freeze_others(model, learning_parameters(model, "all"))
    assert all(module.training for module in model.modules())


def test_what_cannot_be_chosen():
    with pytest.raises(InputError, match="all, last-stages, head to be trained; got 'tail'"):
        learning_parameters(nn.Linear(1, 1), "tail")
    with pytest.raises(InputError, match="no head apart"):
        learning_parameters(nn.Linear(1, 1), "head")
