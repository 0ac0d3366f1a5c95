"""Names -> networks: timm's architectures, with weights from timm, from a file, or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from camseg.compat import import_torchvision
from camseg.errors import CheckpointError, InputError, WeightsUnavailableError

import_torchvision()
import timm  # noqa: E402  (it imports torchvision, which may have to be made importable first)
from timm.data import resolve_model_data_config  # noqa: E402
from timm.models import get_pretrained_cfg  # noqa: E402

ModelArgs = Mapping[str, str | int | float | bool | None]
"""Further keyword arguments of the architecture's constructor, JSON values only."""

SIZE_ARGS: Final[Sequence[ModelArgs]] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""How constructors that fix the size of their inputs are told to take others too, the best way first."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors from a weights file and what the file says of them."""

    tensors: Mapping[str, Tensor]
    """Parameters and buffers by name; floats as float32."""
    arch: str | None = None
    """The timm architecture they were trained in."""
    model_args: ModelArgs
    """Arguments the architecture needs to fit them, such as ``pad_type``."""
    mean: tuple[float, ...] | None = None
    """Per-channel mean of the inputs they expect, in [0, 1]."""
    std: tuple[float, ...] | None = None
    """Per-channel standard deviation of the inputs they expect."""


def create_model(
    arch: str, num_classes: int, *, pretrained: bool = False, model_args: ModelArgs | None = None
) -> nn.Module:
    """Build the network ``arch`` with ``num_classes`` outputs: images (N, 3, H, W) -> logits (N, num_classes).

    Raises InputError for an unknown name or argument, WeightsUnavailableError when pretrained weights
    cannot be downloaded.
    """
    if not timm.is_model(arch):
        near = get_close_matches(arch, timm.list_models(), n=5)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise InputError(f"timm {timm.__version__} has no model {arch!r}{hint}")
    try:
        return timm.create_model(arch, pretrained=pretrained, num_classes=num_classes, **(model_args or {}))
    except Exception as error:  # hubs and constructors raise whatever their libraries do
        if pretrained and not isinstance(error, TypeError):
            raise WeightsUnavailableError(
                f"the ImageNet weights of {arch} could not be had ({_first_line(error)}); connect "
                "to the internet once, give a local file with --weights FILE, or train from scratch with --weights none"
            ) from None
        raise InputError(f"{arch} cannot be built with {dict(model_args or {})}: {_first_line(error)}") from error


def create_sized_model(
    arch: str, num_classes: int, image_size: int, *, pretrained: bool = False, model_args: ModelArgs | None = None
) -> tuple[nn.Module, ModelArgs]:
    """``create_model`` for square inputs of ``image_size`` pixels, and the arguments that rebuild it.

    Architectures that fix the size of their inputs are told it, and to take others too where they have a way;
    ``model_args`` come first. Raises what ``create_model`` does, and InputError when the network cannot take
    inputs of that size.
    """
    given = dict(model_args or {})
    config: Any = get_pretrained_cfg(arch) if timm.is_model(arch) else None
    fixed = config is not None and config.fixed_input_size
    for size in SIZE_ARGS if fixed else [{}]:
        args: ModelArgs = {**size, **({"img_size": image_size} if fixed else {}), **given}
        try:
            model = create_model(arch, num_classes, pretrained=pretrained, model_args=args)
            break
        except InputError as error:
            # Constructors refuse an argument that they do not know before they do any work.
            if not size or not isinstance(error.__cause__, TypeError):
                raise
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        hint = f", such as {config.input_size[-1]}" if config else ""
        reason = _first_line(error)
        raise InputError(
            f"{arch} cannot take inputs of {image_size} pixels ({reason}); choose another --image-size{hint}"
        ) from None
    return model, args


def normalisation(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation of inputs, in [0, 1], that timm states for a model."""
    config = resolve_model_data_config(model)
    return tuple(config["mean"]), tuple(config["std"])


def pretrained_classes(model: nn.Module) -> int | None:
    """The number of classes that a model's pretrained head tells apart, as timm states it."""
    config: Any = getattr(model, "pretrained_cfg", {})
    return config.get("num_classes")


def read_weights(path: Path | str) -> Weights:
    """Read a ``.safetensors`` file, or a PyTorch file of tensors with weights-only loading.

    A safetensors file may say in its metadata ``arch``, ``pad_type``, ``mean`` and ``std`` ("0.5,0.5,0.5").
    Raises CheckpointError when the file cannot be read or holds other things than tensors.
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
        mean, std = (_floats(metadata[key]) if key in metadata else None for key in ("mean", "std"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such weights file") from None
    except (OSError, ValueError, RuntimeError, SafetensorError, EOFError) as error:
        raise CheckpointError(f"{path}: not a readable weights file ({_first_line(error)})") from None
    except Exception as error:  # weights-only unpickling refuses in many ways
        raise CheckpointError(
            f"{path}: damaged, or holds more than tensors, and is not loaded ({type(error).__name__}); "
            "convert it to a plain state dict or safetensors"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected named tensors; convert it to a plain state dict or safetensors")
    return Weights(
        tensors={
            name.removeprefix("module."): value.float() if value.is_floating_point() else value
            for name, value in state.items()
        },
        arch=metadata.get("arch"),
        model_args={"pad_type": metadata["pad_type"]} if "pad_type" in metadata else {},
        mean=mean,
        std=std,
    )


def resampled(weights: Weights, model: nn.Module, arch: str, model_args: ModelArgs) -> Weights:
    """The weights with what belongs to another input size, such as position embeddings, as timm fits it to a model.

    What needs no such thing, or cannot be fitted, comes back as it is.
    """
    own = model.state_dict()
    head = tuple(f"{name}." for name in _head_names(model))
    tensors = {name: value for name, value in weights.tensors.items() if not name.startswith(head)}
    if all(name not in own or own[name].shape == value.shape for name, value in tensors.items()):
        return weights
    own_head = {name: value for name, value in own.items() if name.startswith(head)}
    classes: Any = model.num_classes
    overlay = {"state_dict": tensors | own_head, "num_classes": classes, "label_offset": 0, "custom_load": False}
    try:
        fitted = timm.create_model(
            arch, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay, **model_args
        ).state_dict()
    except Exception:  # filters and constructors raise whatever they do; loading then says what does not fit
        return weights
    return replace(
        weights,
        tensors={name: fitted[name] if name in tensors else value for name, value in weights.tensors.items()},
    )


def load_backbone(model: nn.Module, weights: Weights, source: str) -> bool:
    """Copy the weights into a model in place; a head of another number of classes stays as it is.

    Returns whether the head came along. Raises CheckpointError when anything but the head is missing,
    unknown or of another shape.
    """
    own = model.state_dict()
    head = tuple(f"{name}." for name in _head_names(model))
    usable = {
        name: value
        for name, value in weights.tensors.items()
        if not (name.startswith(head) and (name not in own or own[name].shape != value.shape))
    }
    wrong = [name for name, value in usable.items() if name not in own or own[name].shape != value.shape]
    missing = [
        name
        for name in own
        if name not in usable and not name.startswith(head) and not name.endswith("num_batches_tracked")
    ]
    if wrong or missing:
        raise CheckpointError(
            f"{source} does not fit the model: {len(wrong)} tensors have no place (first {wrong[:1]}), {len(missing)} "
            f"are missing (first {missing[:1]}); choose the architecture, --image-size and --model-arg that the file "
            "was trained with"
        )
    model.load_state_dict(usable, strict=False)
    return all(name in usable for name in own if name.startswith(head))


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the classification head: what a warm-up trains while the backbone is frozen."""
    names = tuple(f"{name}." for name in _head_names(model))
    return [parameter for name, parameter in model.named_parameters() if name.startswith(names)]


def calm_head(model: nn.Module) -> None:
    """Give a new head on a pretrained backbone small random weights and no bias, in place.

    Several architectures start heads so wide that their first logits are in the tens; a fine-tuning then
    spends its epochs on undoing that.
    """
    for parameter in head_parameters(model):
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.01)
        else:
            nn.init.zeros_(parameter)


def _head_names(model: nn.Module) -> tuple[str, ...]:
    names: Any = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
