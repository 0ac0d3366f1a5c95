"""Weights files -> networks: what a file holds, how it fits a network, and which part of a network it leaves new."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from camseg.base.errors import CheckpointError
from camseg.base.tensors import read_tensors
from camseg.models.heads import WithHeads
from camseg.models.library import timm
from camseg.models.names import ModelArgs, split_name


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


def read_weights(path: Path | str) -> Weights:
    """Read a ``.safetensors`` file, or a PyTorch file of tensors with weights-only loading.

    A safetensors file may say in its metadata ``arch``, ``pad_type``, ``mean`` and ``std`` ("0.5,0.5,0.5").
    Raises CheckpointError when the file cannot be read or holds other things than tensors.
    """
    tensors, metadata = read_tensors(path)
    try:
        mean, std = (_floats(metadata[key]) if key in metadata else None for key in ("mean", "std"))
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata are damaged ({error})") from None
    return Weights(
        tensors=tensors,
        arch=metadata.get("arch"),
        model_args={"pad_type": metadata["pad_type"]} if "pad_type" in metadata else {},
        mean=mean,
        std=std,
    )


def resampled(weights: Weights, model: nn.Module, arch: str, model_args: ModelArgs) -> Weights:
    """The weights with what belongs to another input size, such as position embeddings, as timm fits it to a model.

    What needs no such thing, or cannot be fitted, comes back as it is.
    """
    arch, _ = split_name(arch)
    model_args = {name: value for name, value in model_args.items() if name != "absent"}  # which is a head's
    model = model.backbone if isinstance(model, WithHeads) else model
    own = model.state_dict()
    head = tuple(f"{name}." for name in head_names(model))
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
    """Copy the weights into a model in place; a classifier of another number of classes stays as it is.

    So do plug-in heads that the weights lack. Returns whether the classifier came along. Raises CheckpointError when
    anything else is missing, unknown or of another shape.
    """
    own, tensors = model.state_dict(), weights.tensors
    if isinstance(model, WithHeads) and not any(name.startswith("backbone.") for name in tensors):
        tensors = {f"backbone.{name}": value for name, value in tensors.items()}
    if isinstance(model, WithHeads):
        tensors = {name: value for name, value in tensors.items() if not name.startswith(model.replaced)}
    classifier = tuple(f"{name}." for name in head_names(model))
    head = (*classifier, *_plugged(model))
    usable = {
        name: value
        for name, value in tensors.items()
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
    return all(name in usable for name in own if name.startswith(classifier))


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the classifier and of plug-in heads: what a warm-up trains while the backbone is frozen."""
    names = (*(f"{name}." for name in head_names(model)), *_plugged(model))
    return [parameter for name, parameter in model.named_parameters() if name.startswith(names)]


def calm_head(model: nn.Module) -> None:
    """Give a new classifier on a pretrained backbone small random weights and no bias, in place.

    Several architectures start classifiers so wide that their first logits are in the tens; a fine-tuning then
    spends its epochs on undoing that.
    """
    names = tuple(f"{name}." for name in head_names(model))
    for name, parameter in model.named_parameters():
        if not name.startswith(names):
            continue
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.01)
        else:
            nn.init.zeros_(parameter)


def _plugged(model: nn.Module) -> tuple[str, ...]:
    return tuple(f"{name}." for name in model.heads) if isinstance(model, WithHeads) else ()


def head_names(model: nn.Module) -> tuple[str, ...]:
    """The names of the layers that classify: one, but for few architectures."""
    names: Any = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
