"""A file of FBA weights -> the network, ready for inference."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from camseg.errors import CheckpointError
from camseg.refinement.fba.network import FbaNetwork

EPS = 1e-5
"""Added to the variance of a convolution's weights before they are divided by its root."""


def load_network(path: Path | str) -> FbaNetwork:
    """The network with the weights of a file, standardised, in evaluation mode, on the CPU.

    Raises CheckpointError when the file cannot be read or does not hold exactly the network's parameters.
    """
    with torch.device("meta"):  # no memory and no time for random weights
        network = FbaNetwork()
    tensors = read_tensors(Path(path))
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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors, as float32, of a ``.safetensors`` file, or of any other by weights-only ``torch.load``.

    A dict around them ("state_dict", "model") and a prefix "module." are taken off. Raises CheckpointError.
    """
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such weights file") from None
    except Exception as error:  # both readers, and weights-only unpickling above all, refuse in many ways
        raise CheckpointError(
            f"{path}: damaged, no file of weights, or holds more than tensors, and is not loaded "
            f"({type(error).__name__}); give a plain state dict or safetensors"
        ) from None
    if isinstance(state, dict):
        state = state.get("state_dict", state.get("model", state))
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected named tensors; give a plain state dict or safetensors")
    return {str(name).removeprefix("module."): value.float() for name, value in state.items()}
