"""Segmentation networks: their counts, what they give for any size, and the references' own outputs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from camseg.base.errors import CheckpointError, InputError, WeightsUnavailableError
from camseg.models.backbones.involution import Involution
from camseg.models.building import create_model
from camseg.models.segmenters.blocks import GainlessBatchNorm, chain_widths
from camseg.models.segmenters.building import build_segmenter, default_segmenter_size
from camseg.models.segmenters.registry import DECODERS, LINEAR, SEGMENTERS, canonical_segmenter
from camseg.train.segmenter_learner import decoder_parameters

sys.path.insert(0, str(Path(__file__).parent))
from segmentation_pairs import PAIRS, SHARED, arrays, filled, needs_shared, network

WEIGHTS = Path(__file__).parents[3] / "shared/weights/mobilenetv2_100_imagenet.safetensors"


def on_meta(name, **settings):
    with torch.device("meta"):
        return build_segmenter(name, **settings)


def trainable(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def statistics(model):
    ends = ("running_mean", "running_var")
    return sum(value.numel() for name, value in model.state_dict().items() if name.endswith(ends))


# Published or, for unet-bn and attention-unet, the references' own counts.
COUNTS = {
    "unet": (7_760_097, 0),
    "multiresunet": (7_238_228, 7_262_750 - 7_238_228),
    "dcunet": (10_040_524, 10_069_928 - 10_040_524),
    "attention-unet": (34_878_573, 15_624),
    "unet-bn": (7_763_041, 5_888),
}


@pytest.mark.parametrize("name", SEGMENTERS)
def test_counts_are_those_that_the_registry_states(name):
    model = on_meta(name)
    assert trainable(model) == SEGMENTERS[name].parameters
    assert statistics(model) == SEGMENTERS[name].statistics
    assert COUNTS.get(name, (trainable(model), statistics(model))) == (trainable(model), statistics(model))


@pytest.mark.parametrize(("name", "total"), [("unet", 7_759_521), ("multiresunet", 7_262_504), ("dcunet", 10_069_640)])
def test_counts_with_one_input_channel(name, total):
    model = on_meta(name, inputs=1)
    assert trainable(model) + statistics(model) == total


def test_the_paper_s_counts_of_med_ic():
    counts = [trainable(on_meta("med-ic-seg", arguments={"involutions": number})) for number in (1, 2, 3)]
    assert all(6_980_000 <= count < 6_990_000 for count in counts)
    assert np.diff(counts).tolist() == [39, 39]  # 43 with the running statistics of the two hidden units
    assert round(trainable(on_meta("unet-extra")) / 1e6, 1) == 11.7


def test_widths_of_multiresunet():
    """As its authors list them: 51, 105, 212, 426, 853 channels."""
    assert [sum(chain_widths(stage)) for stage in (32, 64, 128, 256, 512)] == [51, 105, 212, 426, 853]


@pytest.mark.parametrize("name", [name for name in SEGMENTERS if name != "attention-unet"])
def test_logits_have_the_images_size_whatever_it_is(name):
    torch.manual_seed(0)
    model = build_segmenter(name, outputs=2).eval().requires_grad_(False)
    images = torch.randn(2, 3, 33, 18)
    tall, wide = model.padded(33, 18)
    assert (tall % model.divisor, wide % model.divisor) == (0, 0)
    assert 0 <= tall - 33 < model.divisor
    assert 0 <= wide - 18 < model.divisor
    rows, columns = torch.arange(tall).clamp_max(32), torch.arange(wide).clamp_max(17)
    whole = model(images[:, :, rows][..., columns])  # the last row and column continued
    assert torch.equal(model(images), whole[..., :33, :18])
    assert model.get_submodule(model.bottleneck)
    assert model.get_submodule(model.last_decoder)


def test_every_stage_learns():
    torch.manual_seed(0)
    for name in ("multiresunet", "med-ic-seg"):
        model = build_segmenter(name).train()
        model(torch.randn(2, 3, 32, 32)).square().mean().backward()
        # A convolution's bias before batch norm would have none; there is no such here.
        still = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum()]
        assert still == []


def test_batch_norm_without_gain_is_batch_norm_with_a_gain_of_1():
    torch.manual_seed(0)
    own, peer, x = GainlessBatchNorm(4), nn.BatchNorm2d(4, eps=1e-3, momentum=0.01), torch.randn(3, 4, 5, 5)
    with torch.no_grad():
        own.bias.copy_(peer.bias.normal_())
    assert list(dict(own.named_parameters())) == ["bias"]
    assert "weight" not in own.state_dict()
    assert torch.equal(own(x), peer(x))
    assert torch.equal(own.eval()(x), peer.eval()(x))
    assert torch.equal(own.running_var, peer.running_var)


@needs_shared
@pytest.mark.parametrize("name", PAIRS)
def test_logits_are_the_references(name):
    model, pairs = network(name), arrays(name)
    seen = {}

    def see(stage):
        return lambda _module, _inputs, output: seen.setdefault(stage, []).append(output)

    for stage in ["enc1", "enc2", "enc3", "enc4", "bridge", "dec6", "dec7", "dec8", "dec9"]:
        model.get_submodule(stage).register_forward_hook(see(stage))
    for i in (0, 1):
        logits = model(torch.from_numpy(pairs[f"x_{i}"])).numpy()
        np.testing.assert_allclose(logits, pairs[f"logit_{i}"], rtol=0, atol=1e-4)
    for stage in [stage for stage in seen if f"mean_{stage}" in pairs]:
        first = seen[stage][0]
        mean = first.mean(dim=(2, 3))[0].numpy()
        np.testing.assert_allclose(mean, pairs[f"mean_{stage}"], rtol=0, atol=1e-4, err_msg=stage)


LAYERS = {
    "involution_original": (Involution, {"channels": 32, "kernel_size": 7, "groups": 2, "reduction": 4}),
    "involution_keras_c3": (Involution, {"channels": 3, "kernel_size": 3, "reduction": 3}),
    "involution_keras_c3_h2": (Involution, {"channels": 3, "kernel_size": 3, "reduction": 2}),
    "involution_keras_c16_g4": (Involution, {"channels": 16, "kernel_size": 3, "groups": 4, "reduction": 2}),
}


@needs_shared
@pytest.mark.parametrize("tag", LAYERS)
def test_involution_is_the_references(tag):
    told = json.loads((SHARED / "involution_parameters.json").read_text())
    told, gain = told["layers"][tag], told["gain"]
    kind, settings = LAYERS[tag]
    layer = kind(settings["channels"], **{key: value for key, value in settings.items() if key != "channels"}).eval()
    layer.reduce[1].eps = told["batch_norm_eps"]
    values = {
        name.removeprefix(f"{tag}."): torch.from_numpy(np.float32(filled(name, shape, gain)))
        for name, shape in told["parameters"]
    }
    ours = {"conv1.conv.": "reduce.0.", "conv1.bn.": "reduce.1.", "conv2.conv.": "span."}
    ours |= {"conv1.": "reduce.0.", "bn.": "reduce.1.", "conv2.": "span."}
    state = {}
    for name, value in values.items():
        start = next(start for start in ours if name.startswith(start))
        state[ours[start] + name.removeprefix(start)] = value
    groups, taps = settings.get("groups", 1), settings["kernel_size"] ** 2
    channels = torch.arange(settings["channels"])
    if "keras" in tag:  # its generator goes through the taps, ours through the groups first
        order = (torch.arange(taps)[None] * groups + torch.arange(groups)[:, None]).flatten()
        state["span.weight"], state["span.bias"] = state["span.weight"][order], state["span.bias"][order]
        # Its channel c belongs to group c mod G, ours to c // (C / G).
        channels = channels.view(-1, groups).T.flatten()
        state["reduce.0.weight"] = state["reduce.0.weight"][:, channels]
    else:
        state["reduce.0.bias"] = torch.zeros(len(layer.reduce[0].bias))
    layer.load_state_dict(state, strict=False)
    assert sum(value.numel() for value in values.values()) == told.get("count")
    with np.load(SHARED / "involution.npz") as file:
        key = tag.replace("involution_original", "original")
        x, y = torch.from_numpy(file[f"{key}_x"]), file[f"{key}_y"]
    with torch.no_grad():
        found = layer(x[:, channels])[:, channels.argsort()].numpy()
    np.testing.assert_allclose(found, y, rtol=0, atol=1e-4)


def test_names_are_forgiving_and_unknown_ones_say_what_there_is():
    assert canonical_segmenter("UNet+MobileNetV2") == "unet+mobilenetv2_100"
    assert canonical_segmenter("DeepLabV3Plus + tu-resnet50") == "deeplabv3plus+resnet50"
    assert canonical_segmenter("Attention_UNet") == "attention-unet"
    assert (default_segmenter_size("unet"), default_segmenter_size("unet+resnet18")) == (128, 224)
    with pytest.raises(InputError, match=r"unknown segmentation network 'unett'; choose among unet, multires.*, fpn"):
        build_segmenter("unett")
    with pytest.raises(InputError, match="one decoder and one encoder"):
        build_segmenter("unet+mobilenetv2_100+mab")
    with pytest.raises(InputError, match="has no model 'nothing'"):
        build_segmenter("unet+nothing")
    with pytest.raises(InputError, match="expected an encoder of timm, got med_ic"):
        build_segmenter("unet+med_ic")


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("unet", {"depth": 3}, "arguments: none"),
        ("med-ic-seg", {"involutions": 4}, "expected 1, 2 or 3 involutions, got 4.*involutions: 1, 2 or 3"),
        ("unet-extra", {"drop_rate": 1.0}, "from 0 to below 1"),
        ("unet+test_resnet", {"nothing": 1}, "cannot be built with .*nothing"),
    ],
)
def test_arguments_that_a_network_does_not_take(name, arguments, words):
    with pytest.raises(InputError, match=words):
        build_segmenter(name, arguments=arguments)


def test_own_networks_have_no_weights():
    with pytest.raises(WeightsUnavailableError, match="--weights none"):
        build_segmenter("unet", weights="imagenet")


@pytest.mark.parametrize("decoder", [name for name in DECODERS if name != LINEAR])
def test_the_library_s_decoders(decoder):
    torch.manual_seed(0)
    model = build_segmenter(f"{decoder}+resnet10t", outputs=2).eval().requires_grad_(False)
    side = model.divisor
    images = torch.randn(1, 3, side, side)
    expected = model.network(images)
    assert torch.equal(model(images), expected)  # what is there to be looked at changes nothing
    assert model(images[..., : side - 5, : side - 9]).shape == (1, 2, side - 5, side - 9)


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
def test_a_linear_probe_is_one_linear_layer_on_the_classifier_s_maps(encoder, tmp_path):
    torch.manual_seed(0)
    classifier = create_model(encoder, 3).eval()
    save_file(classifier.state_dict(), tmp_path / "weights.safetensors", {"arch": encoder})
    model = build_segmenter(f"linear+{encoder}", outputs=2, weights=tmp_path / "weights.safetensors").eval()
    side = classifier.pretrained_cfg["input_size"][1]
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        maps = classifier.forward_features(images)
        if maps.ndim == 3:  # tokens
            maps = maps[:, classifier.num_prefix_tokens :].transpose(1, 2).unflatten(2, (side // 16, side // 16))
        model.standardised.running_mean.copy_(maps.mean(dim=(0, 2, 3)))
        centred = maps - maps.mean(dim=(0, 2, 3), keepdim=True)
        scores = torch.einsum("nchw,kc->nkhw", centred, model.scores.weight[..., 0, 0])
        scores += model.scores.bias[:, None, None]
        expected = functional.interpolate(scores, (side, side), mode="bilinear")
        assert torch.allclose(model(images), expected, atol=1e-3)
        assert model(images[..., :37, :50]).shape == (2, 2, 37, 50)
    learning = {id(one) for one in decoder_parameters(model)}
    assert learning == {id(one) for one in model.scores.parameters()}


def test_a_classifier_s_weights_go_into_the_encoder(tmp_path):
    torch.manual_seed(0)
    classifier = create_model("test_resnet", 3).eval()
    for name, buffer in classifier.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    path = tmp_path / "weights.safetensors"
    stated = {"arch": "test_resnet", "mean": "0.1,0.2,0.3", "std": "0.5,0.6,0.7"}
    save_file(classifier.state_dict(), path, stated)
    model = build_segmenter("fpn+test_resnet", weights=path).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        deepest = model.network.encoder(images)[-1]
        assert torch.equal(deepest, classifier.forward_features(images))
    assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    with pytest.raises(InputError, match="holds weights of test_resnet, not of resnet18; choose fpn"):
        build_segmenter("fpn+resnet18", weights=path)
    save_file(classifier.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"does not fit the encoder: \d+ tensors"):
        build_segmenter("fpn+resnet18", weights=path)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the weights are not here")
def test_imagenet_weights_of_a_local_file_and_its_padding():
    model = build_segmenter("unet+mobilenetv2_100", weights=WEIGHTS)
    assert model.arguments == {"pad_type": "same"}
    own, given = model.network.encoder.model.state_dict(), load_file(WEIGHTS)
    assert torch.equal(own["blocks.6.0.conv_pw.weight"], given["blocks.6.0.conv_pw.weight"].float())
    assert model.mean == (0.5, 0.5, 0.5)
    again = build_segmenter("unet+mobilenetv2_100", arguments=model.arguments).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 32, 64)
    assert torch.equal(again(images), model.eval()(images))
