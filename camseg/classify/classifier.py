"""Classifier: image -> scores. A checkpoint is weights, classes and preprocessing together."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import camseg
from camseg.base.arrays import Image
from camseg.base.errors import InputError
from camseg.base.files import write_bytes, write_json
from camseg.base.tensors import tensor_bytes
from camseg.classify.preprocessing import Preprocessing, check_form, per_channel
from camseg.classify.settings import Resize
from camseg.data.images import Window
from camseg.models.building import (
    check_architecture,
    create_model,
    create_sized_model,
    default_image_size,
    normalisation,
    pools,
    pretrained_classes,
)
from camseg.models.names import DEFAULT_ARCH, ModelArgs, canonical_name, split_name
from camseg.models.weights import calm_head, head_names, load_backbone, read_weights, resampled


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A network with everything needed to feed it and to read its outputs.

    Checked when made: InputError.
    """

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
        _check_classes(self.classes, self.negative)
        _ = self.preprocessing  # which checks its part
        if not isinstance(self.model_args, Mapping):
            raise InputError(f"expected model_args by name, got {self.model_args!r}")
        if not (self.training is None or isinstance(self.training, Mapping)):
            raise InputError(f"expected training by name, or nothing; got {self.training!r}")
        if not isinstance(self.multi_label, bool):
            raise InputError(f"expected multi_label true or false, got {self.multi_label!r}")
        if not isinstance(self.temperature, (int, float)) or not 0.0 < self.temperature < float("inf"):
            raise InputError(f"expected a temperature above 0, got {self.temperature!r}")

    @staticmethod
    def create(
        arch: str | None,
        *,
        classes: Sequence[str],
        image_size: int | None = None,
        weights: str | Path | None = None,
        multi_label: bool = False,
        negative: Sequence[str] = (),
        resize: Resize = "stretch",
        window: Window = "full",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        model_args: ModelArgs | None = None,
    ) -> "Classifier":
        """Build an untrained classifier on the CPU; ``arch`` None takes the weights file's, else DEFAULT_ARCH.

        ``weights``: None or ``"none"`` for random ones, ``"imagenet"`` for timm's, or a file, whose own
        statement of architecture, arguments, mean and std is used where the caller makes none. ``image_size`` None
        is what ``default_image_size`` says.

        Raises InputError, CheckpointError or WeightsUnavailableError.
        """
        _check_classes(classes, negative)
        check_form(8 if image_size is None else image_size, resize, window, least=8)
        file = None if weights in (None, "none", "imagenet") else read_weights(weights)
        args: ModelArgs = {**(file.model_args if file else {}), **(model_args or {})}
        arch = check_architecture(((file and file.arch) or DEFAULT_ARCH) if arch is None else arch)
        if file and file.arch and canonical_name(file.arch) not in (arch, split_name(arch)[0]):
            raise InputError(f"{weights} holds weights of {file.arch}, not of {arch}; choose that model")
        if negative and pools(arch):
            args = {"absent": ",".join(str(classes.index(name)) for name in negative), **args}
        image_size = default_image_size(arch) if image_size is None else image_size
        model, args = create_sized_model(
            arch, len(classes), image_size, pretrained=weights == "imagenet", model_args=args
        )
        if file:
            has_head = load_backbone(model, resampled(file, model, arch, args), str(weights))
        else:
            has_head = weights != "imagenet" or len(classes) == pretrained_classes(model)
        if not has_head:
            calm_head(model)
        stated_mean, stated_std = normalisation(model)
        return Classifier(
            model=_channels_last(model.eval()),
            arch=arch,
            model_args=args,
            classes=tuple(classes),
            multi_label=multi_label,
            negative=tuple(negative),
            image_size=image_size,
            resize=resize,
            window=window,
            mean=per_channel(mean or (file and file.mean) or stated_mean, "mean"),
            std=per_channel(std or (file and file.std) or stated_std, "std"),
        )

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return next(self.model.parameters()).device

    def class_index(self, name: str) -> int:
        """The index of a class; InputError, with the classes there are, for an unknown one."""
        if name not in self.classes:
            raise InputError(f"the classifier has no class {name!r}; it has {', '.join(self.classes)}")
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
        """uint8 (N, s, s, 3) -> float32 (N, 3, s, s) on the classifier's device, mean 0 and deviation 1."""
        return self.preprocessing.normalise(squares.to(self.device))

    def preprocess(self, images: Sequence[Image], scale: float = 1.0) -> Tensor:
        """Images of any size -> float32 (N, 3, s, s) on the classifier's device, s = round(scale * image_size)."""
        if not len(images):
            raise InputError("expected at least one image, got none")
        return self.normalise(torch.from_numpy(np.stack([self.to_input(image, scale) for image in images])))

    def predicted(self, probabilities: NDArray[np.float32]) -> list[list[int]]:
        """The likeliest class of each row (N, classes); multi-label: every class with probability >= 0.5."""
        if self.multi_label:
            return [np.flatnonzero(row >= 0.5).tolist() for row in probabilities]
        return [[int(index)] for index in probabilities.argmax(axis=1)]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, classes) -> calibrated probabilities: softmax, or for a multi-label classifier sigmoid, of the
        logits divided by the temperature, which no decision depends on."""
        scaled = logits / self.temperature
        return scaled.sigmoid() if self.multi_label else scaled.softmax(dim=1)

    @property
    def head_layers(self) -> tuple[str, ...]:
        """The names in the network of the layers that classify: one, but for few architectures."""
        return head_names(self.model)

    @property
    def members(self) -> tuple["Classifier", ...]:
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

    def vote(self, logits: Sequence[Tensor], _features: Sequence[Tensor | None]) -> Tensor:
        """The members' logits (N, classes) -> probabilities (N, classes), as in Ensemble."""
        return self.probabilities(logits[0])

    def with_negative(self, negative: Sequence[str]) -> "Classifier":
        """The same network with other negative classes; InputError for an unknown one."""
        for name in negative:
            self.class_index(name)
        return replace(self, negative=tuple(negative))

    def with_output_stride(self, stride: int) -> "Classifier":
        """The same weights in the architecture built with another output stride: at 16 instead of 32 pixels the last
        maps are twice as wide and high.

        Raises InputError for other strides than 8, 16 and 32, and where the architecture has no such choice.
        """
        if stride not in (8, 16, 32):
            raise InputError(f"expected an output stride of 8, 16 or 32, got {stride}")
        args = {**self.model_args, "output_stride": stride}
        try:
            model = create_model(self.arch, len(self.classes), model_args=args)
            model.load_state_dict(self.model.state_dict())
        except (InputError, RuntimeError) as error:
            words = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.arch} has no output stride of {stride}; leave --output-stride out ({words})"
            ) from None
        return replace(self, model=_channels_last(model.eval()).to(self.device), model_args=args)

    def save(self, run: Path | str) -> None:
        """Write ``model.safetensors`` and ``classifier.json`` into the folder ``run``."""
        write_bytes(Path(run, "model.safetensors"), tensor_bytes(self.model.state_dict()))
        settings = self._settings()
        del settings["run"]
        write_json(Path(run, "classifier.json"), {**settings, "version": camseg.__version__})

    def fingerprint(self) -> str:
        """SHA-256 over the weights and settings: equal for equal classifiers, whatever file they came from."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        settings = {name: value for name, value in self._settings().items() if name not in ("training", "run")}
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return digest.hexdigest()

    def __reduce__(self) -> tuple[Callable[..., "Classifier"], tuple[dict[str, Any], bytes]]:
        # As settings and weights, of which the receiver builds the network: networks hold hooks and functions that do
        # not pickle, and their tensors would want the device that they come from.
        return _unpickled, (self._settings(), tensor_bytes(self.model.state_dict()))

    def _settings(self) -> dict[str, Any]:
        """All fields but the network."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "model"}


def assemble(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Classifier:
    """A classifier on the CPU from its fields but the network, and the network's weights.

    Raises InputError for settings that cannot be, RuntimeError for weights that do not fit the network, and KeyError,
    TypeError, ValueError or AttributeError for what are no settings at all.
    """
    model = create_model(settings["arch"], len(settings["classes"]), model_args=settings["model_args"])
    model.load_state_dict(weights)
    return Classifier(model=_channels_last(model.eval()), **settings)


def _unpickled(settings: dict[str, Any], weights: bytes) -> Classifier:
    return assemble(settings, safetensors.torch.load(weights))


def _channels_last(model: nn.Module) -> nn.Module:
    moved: nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stubs lack it
    return moved


def _check_classes(classes: Sequence[str], negative: Sequence[str]) -> None:
    strings = not isinstance(classes, str) and all(isinstance(name, str) for name in classes)
    if not strings or not classes or len(set(classes)) != len(classes):
        raise InputError(f"expected a list of different class names, got {classes!r}")
    for name in classes:
        if not name or name in (".", "..") or "/" in name or ";" in name:
            raise InputError(f"the class name {name!r} cannot be a folder's name; use no '/', ';', '.' or '..'")
    if unknown := sorted(set(negative) - set(classes)):
        raise InputError(f"the negative class {unknown[0]!r} is not one of {', '.join(classes)}")
