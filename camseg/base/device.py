"""Which device to compute on, or which ones side by side."""

import re

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


def find_devices(devices: str) -> list[str]:
    """``cuda:0,cuda:1``, or ``cpu:2`` for two processes on the CPU, as one device for each process.

    Raises InputError for a text of another form, or a device that does not exist here.
    """
    found: list[str] = []
    for part in devices.split(","):
        several = re.fullmatch(r"cpu:([1-9]\d{0,2})", part.strip())
        found += ["cpu"] * int(several[1]) if several else [str(find_device(part.strip()))]
    return found
