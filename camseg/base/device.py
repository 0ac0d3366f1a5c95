"""Which device to compute on."""

import torch

from camseg.base.errors import InputError


def find_device(device: str | torch.device = "auto") -> torch.device:
    """``auto`` (CUDA, else MPS, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` as a device that is there.

    Raises InputError for a device that does not exist here.
    """
    if device == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        torch.zeros(1, device=device).item()  # which the meta device cannot
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device} cannot be used here ({reason}); try --device auto") from None
