"""Files of weights <-> named tensors, and never the code that a PyTorch file may hold."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from camseg.base.errors import CheckpointError, first_line


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The named tensors of a ``.safetensors`` file and its metadata, or those of a PyTorch file, which has none.

    PyTorch files are read with weights-only loading; a dict around the tensors ("state_dict", "model") is taken off,
    as is the prefix "module." of names. Floats come as float32, on the CPU. Raises CheckpointError when the file
    cannot be read or holds other things than tensors.
    """
    path = Path(path)
    metadata: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state.get("model", state)) if isinstance(state, dict) else state
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such weights file") from None
    except (OSError, ValueError, RuntimeError, SafetensorError, EOFError) as error:
        raise CheckpointError(f"{path}: not a readable weights file ({first_line(error)})") from None
    except Exception as error:  # weights-only unpickling refuses in many ways
        raise CheckpointError(
            f"{path}: damaged, or holds more than tensors, and is not loaded ({type(error).__name__}); "
            "convert it to a plain state dict or safetensors"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected named tensors; convert it to a plain state dict or safetensors")
    tensors = {
        str(name).removeprefix("module."): value.float() if value.is_floating_point() else value
        for name, value in state.items()
    }
    return tensors, metadata


def tensor_bytes(tensors: Mapping[str, Tensor], facts: dict[str, str] | None = None) -> bytes:
    """Tensors of any device and layout as the content of a safetensors file, with ``facts`` as its metadata."""
    # Cloned, for tensors that share memory, as tied weights do, are refused.
    plain = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    content: bytes = safetensors.torch.save(plain, facts)
    return content
