"""A file of FBA weights -> the network, ready for inference."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from camseg.base.errors import CheckpointError
from camseg.base.tensors import read_tensors
from camseg.refinement.fba.network import FbaNetwork

EPS = 1e-5
"""Added to the variance of a convolution's weights before they are divided by its root."""


def load_network(path: Path | str) -> FbaNetwork:
    """The network with the weights of a file, standardised, in evaluation mode, on the CPU.

    Raises CheckpointError when the file cannot be read or does not hold exactly the network's parameters.
    """
    with torch.device("meta"):  # no memory and no time for random weights
        network = FbaNetwork()
    tensors, _ = read_tensors(path)
    own = network.state_dict()
    problems = {
        "missing": [name for name in own if name not in tensors],
        "unknown": [name for name in tensors if name not in own],
        "of another shape": [name for name in own if name in tensors and own[name].shape != tensors[name].shape],
    }
    if any(problems.values()):
        counts = "; ".join(f"{len(names)} {kind} (first {names[0]})" for kind, names in problems.items() if names)
        raise CheckpointError(
            f"{path}: expected the {len(own)} parameters of the published FBA network, of {len(tensors)} tensors "
            f"{counts}; give the file that its authors published, or a conversion of it"
        )
    network.load_state_dict(tensors, assign=True)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and not name.startswith("decoder.conv_up4"):
            module.weight = nn.Parameter(standardised(module.weight))
    return network.requires_grad_(False).eval()


def standardised(weight: Tensor) -> Tensor:
    """Weights (outputs, inputs, h, w) with mean 0 and variance 1 for each output, as training saw them.

    Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight Standardization, 2019.
    """
    rows = weight.flatten(1)[None]  # (1, outputs, inputs * h * w)
    return functional.batch_norm(rows, None, None, training=True, eps=EPS).view_as(weight)
