import json
import sys

import pytest
import torch

from camseg.base.errors import InputError
from camseg.models.listing import find_models, list_models
from camseg.models.names import ARCHITECTURES
from camseg.models.segmenters.registry import DECODERS, SEGMENTERS


def test_all_that_can_be_named_is_listed_with_what_it_has():
    before = torch.get_rng_state()
    found = list_models()
    assert torch.equal(torch.get_rng_state(), before)
    names = [one.name for one in found]
    assert names == [*ARCHITECTURES, *SEGMENTERS, *(f"{decoder}+mobilenetv2_100" for decoder in DECODERS)]
    facts = {one.name: one for one in found}
    for name, entry in SEGMENTERS.items():
        own = facts[name]
        assert (own.kind, own.parameters, own.paper) == ("segmentation", entry.parameters, entry.paper)
        assert own.image_size == entry.image_size
    for name, known in ARCHITECTURES.items():
        assert (facts[name].kind, facts[name].typed, facts[name].paper) == ("classifier", known.typed, known.paper)
    # He et al. state 25.6 million with 1000 classes: 2048 x 1000 + 1000 of them are the classes'.
    assert facts["resnet50"].parameters == 25_557_032 - 2_049_000 + 2_049
    assert (facts["med_ic"].image_size, facts["unet+mobilenetv2_100"].image_size) == (28, 224)


def test_networks_by_the_names_that_people_type():
    found = find_models(["ResNet18", "UNet+ResNet18", "Attention_UNet"])
    assert [(one.name, one.kind) for one in found] == [
        ("resnet18", "classifier"),
        ("unet+resnet18", "segmentation"),
        ("attention-unet", "segmentation"),
    ]
    classes = 513  # what the classifier has behind its 512 maps
    assert found[1].parameters > found[0].parameters - classes
    for name, words in {
        "resnot18": "no model 'resnot18'",
        "fpn": "DECODER.ENCODER",
        "unet+": "expected BACKBONE",
    }.items():
        with pytest.raises(InputError, match=words):
            find_models([name])


def test_without_the_library_decoders_are_listed_uncounted(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    rows = {row["name"]: row for row in json.loads(call("models", "unet+resnet18", "dcunet", "--json")[1])}
    assert rows["unet+resnet18"]["parameters"] is None
    assert rows["dcunet"]["parameters"] == 10_040_524
    code, out, _ = call("models", "unet+resnet18", "resnet18")
    assert code == 0
    assert "unet+resnet18" in out
    assert "11,177,025" in out
