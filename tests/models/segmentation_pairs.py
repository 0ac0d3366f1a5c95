"""Conformance pairs of segmentation networks: what fills a network, what goes in and what comes out."""

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from camseg.models.segmenters.building import build_segmenter

SHARED = Path(__file__).parents[3] / "shared/conformance/segmentation"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the conformance pairs are not here")
PAIRS = {
    "unet": "unet_keras",
    "multiresunet": "multiresunet_keras",
    "dcunet": "dcunet_keras",
    "attention-unet": "attention_unet_torch",
    "unet-bn": "unet_bn_torch",
}
"""Our name -> the reference's."""


def filled(name, shape, gain):
    """The value of a parameter or buffer by its name in the reference."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return gain * values / np.sqrt(np.prod(shape[1:]))
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(values)
    return 1 + 0.1 * values if name.endswith(".weight") else 0.1 * values


def facts(name):
    return json.loads((SHARED / f"{PAIRS[name]}_parameters.json").read_text())


@cache
def arrays(name):
    with np.load(SHARED / f"{PAIRS[name]}.npz") as file:
        return dict(file)


def network(name):
    """The network, filled in the order of the reference's list, which ours are made in."""
    told, model = facts(name), build_segmenter(name).eval()
    own = [key for key in model.state_dict() if not key.endswith("num_batches_tracked")]
    values = [filled(key, shape, told["gain"]) for key, shape, _ in told["parameters"]]
    model.load_state_dict(
        {key: torch.from_numpy(np.float32(value)) for key, value in zip(own, values, strict=True)}, strict=False
    )
    return model.requires_grad_(False)
