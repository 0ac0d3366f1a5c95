"""A network with all that feeds it and reads its outputs: what classifiers and segmenters have in common, and store."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

import camseg
from camseg.base.arrays import Image
from camseg.base.device import find_device
from camseg.base.errors import CheckpointError, InputError
from camseg.base.files import read_json, write_bytes, write_json
from camseg.base.tensors import tensor_bytes
from camseg.classify.preprocessing import Preprocessing
from camseg.classify.settings import Resize
from camseg.data.images import Window
from camseg.models.names import ModelArgs

N = TypeVar("N", bound="FedNetwork")


@dataclass(frozen=True, kw_only=True, eq=False)
class FedNetwork:
    """A network with everything needed to feed it and to read its outputs.

    Checked when made: InputError.
    """

    FILE: ClassVar[str]
    """The file in a run folder that holds all fields but the network."""
    KIND: ClassVar[str]
    """What it is called in messages."""

    model: nn.Module
    """Images (N, 3, S, S), normalised -> logits (N, classes). Its weights lie channels-last, which CPUs and
    GPUs run convolutions faster with."""
    arch: str
    """The architecture's canonical name, in timm or of ours, and the heads joined to it."""
    model_args: ModelArgs
    """Further arguments of the architecture's constructor."""
    classes: tuple[str, ...]
    """In the order of the logits."""
    multi_label: bool
    """Sigmoid over independent classes instead of softmax over exclusive ones."""
    negative: tuple[str, ...]
    """Classes whose images contain no object: their maps and masks are all zero."""
    image_size: int
    """Side S of the square input, pixels."""
    resize: Resize
    """``stretch`` to the square, or scale and ``pad`` with the mean colour, centred."""
    window: Window
    """How 16-bit and float images become 8-bit, as in ``images.read_image``."""
    mean: tuple[float, ...]
    """Per-channel mean, in [0, 1]."""
    std: tuple[float, ...]
    """Per-channel standard deviation."""
    temperature: float = 1.0
    """What logits are divided by before they become probabilities: calibration fits it."""
    training: Mapping[str, Any] | None = None
    """What it was trained from, JSON values only; says nothing to its use."""
    run: str | None = None
    """The folder that it was loaded from, an absolute path; says nothing to its use, and is not saved."""

    def __post_init__(self) -> None:
        self._check_classes()
        _ = self.preprocessing  # which checks its part
        if not isinstance(self.model_args, Mapping):
            raise InputError(f"expected model_args by name, got {self.model_args!r}")
        if not (self.training is None or isinstance(self.training, Mapping)):
            raise InputError(f"expected training by name, or nothing; got {self.training!r}")
        if not isinstance(self.multi_label, bool):
            raise InputError(f"expected multi_label true or false, got {self.multi_label!r}")
        if not isinstance(self.temperature, (int, float)) or not 0.0 < self.temperature < float("inf"):
            raise InputError(f"expected a temperature above 0, got {self.temperature!r}")

    def _check_classes(self) -> None:
        check_class_names(self.classes)

    @staticmethod
    def build_network(settings: Mapping[str, Any]) -> nn.Module:
        """The network that fields of these values are of, with new weights, on the CPU."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return next(self.model.parameters()).device

    @property
    def members(self: N) -> tuple[N, ...]:
        """The networks that decide, as in Ensemble: this one."""
        return (self,)

    @property
    def shares(self) -> tuple[float, ...]:
        """How much each of the members counts."""
        return (1.0,)

    @property
    def reads_features(self) -> bool:
        """Whether ``vote`` needs features beside logits."""
        return False

    @property
    def several(self) -> bool:
        """Whether an image may show several of the classes."""
        return self.multi_label

    def class_index(self, name: str) -> int:
        """The index of a class; InputError, with the classes there are, for an unknown one."""
        if name not in self.classes:
            raise InputError(f"the {self.KIND} has no class {name!r}; it has {', '.join(self.classes)}")
        return self.classes.index(name)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """How it prepares images, without the network."""
        return Preprocessing(
            image_size=self.image_size, resize=self.resize, window=self.window, mean=self.mean, std=self.std
        )

    def content_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Where an image lies in the square input: (top, left, height, width) as shares of its side."""
        return self.preprocessing.content_box(height, width)

    def to_input(self, image: Image, scale: float = 1.0) -> Image:
        """Resize one image to the square input, uint8 (s, s, 3) with s = round(scale * image_size)."""
        return self.preprocessing.to_input(image, scale)

    def normalise(self, squares: Tensor) -> Tensor:
        """uint8 (N, s, s, 3) -> float32 (N, 3, s, s) on the network's device, mean 0 and deviation 1."""
        return self.preprocessing.normalise(squares.to(self.device))

    def preprocess(self, images: Sequence[Image], scale: float = 1.0) -> Tensor:
        """Images of any size -> float32 (N, 3, s, s) on the network's device, s = round(scale * image_size)."""
        if not len(images):
            raise InputError("expected at least one image, got none")
        return self.normalise(torch.from_numpy(np.stack([self.to_input(image, scale) for image in images])))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, classes, ...) -> calibrated probabilities: softmax, or of independent classes sigmoid, of the
        logits divided by the temperature, which no decision depends on."""
        scaled = logits / self.temperature
        return scaled.sigmoid() if self.multi_label else scaled.softmax(dim=1)

    def save(self, run: Path | str) -> None:
        """Write ``model.safetensors`` and the file of settings into the folder ``run``."""
        write_bytes(Path(run, "model.safetensors"), tensor_bytes(self.model.state_dict()))
        settings = self._settings()
        del settings["run"]
        write_json(Path(run, self.FILE), {**settings, "version": camseg.__version__})

    def fingerprint(self) -> str:
        """SHA-256 over the weights and settings: equal for equal networks, whatever file they came from."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        settings = {name: value for name, value in self._settings().items() if name not in ("training", "run")}
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return digest.hexdigest()

    def __reduce__(self: N) -> tuple[Callable[..., N], tuple[type[N], dict[str, Any], bytes]]:
        # As settings and weights, of which the receiver builds the network: networks hold hooks and functions that do
        # not pickle, and their tensors would want the device that they come from.
        return _unpickled, (type(self), self._settings(), tensor_bytes(self.model.state_dict()))

    def _settings(self) -> dict[str, Any]:
        """All fields but the network."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "model"}


def assemble(kind: type[N], settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> N:
    """A classifier or segmenter on the CPU from its fields but the network, and the network's weights.

    Raises InputError for settings that cannot be, RuntimeError for weights that do not fit the network, and KeyError,
    TypeError, ValueError or AttributeError for what are no settings at all.
    """
    model = kind.build_network(settings)
    model.load_state_dict(weights)
    return kind(model=channels_last(model.eval()), **settings)


def read_settings(kind: type[FedNetwork], run: Path) -> dict[str, Any]:
    """What the file of settings in a run folder says; CheckpointError where there is none, or it is something else."""
    if not run.is_dir():
        raise CheckpointError(f"expected the folder of a {kind.KIND} run; {run} does not exist")
    settings = read_json(run / kind.FILE, CheckpointError)
    if not isinstance(settings, dict):
        raise CheckpointError(f"{run / kind.FILE} is not a {kind.KIND}'s settings")
    return settings


def load_run(kind: type[N], run: Path, settings: dict[str, Any], device: str | torch.device) -> N:
    """The network of a run folder, from what ``read_settings`` gave and its weights.

    Raises CheckpointError when a file is missing or damaged, or the weights do not fit; InputError for a
    device that is not there.
    """
    try:
        settings.pop("version", None)
        for name in ("classes", "negative", "mean", "std"):
            settings[name] = tuple(settings[name])
        settings["run"] = os.path.abspath(run)
        network = assemble(kind, settings, safetensors.torch.load_file(run / "model.safetensors"))
    except InputError as error:
        raise CheckpointError(f"{run / kind.FILE}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{run / kind.FILE} is not a {kind.KIND}'s settings ({error!r})") from None
    except (OSError, RuntimeError, SafetensorError) as error:
        message = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{run / 'model.safetensors'} cannot be loaded into {settings.get('arch')}: {message}"
        ) from None
    network.model.to(find_device(device))
    return network


def channels_last(model: nn.Module) -> nn.Module:
    """The network with its weights in channels-last order, in place."""
    moved: nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stubs lack it
    return moved


def check_class_names(classes: Sequence[str]) -> None:
    """InputError for classes that are no different names, or that cannot be a folder's name."""
    strings = not isinstance(classes, str) and all(isinstance(name, str) for name in classes)
    if not strings or not classes or len(set(classes)) != len(classes):
        raise InputError(f"expected a list of different class names, got {classes!r}")
    for name in classes:
        if not name or name in (".", "..") or "/" in name or ";" in name:
            raise InputError(f"the class name {name!r} cannot be a folder's name; use no '/', ';', '.' or '..'")


def _unpickled(kind: type[N], settings: dict[str, Any], weights: bytes) -> N:
    return assemble(kind, settings, safetensors.torch.load(weights))
