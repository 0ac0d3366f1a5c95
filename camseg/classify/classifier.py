"""Classifier: image -> scores. A checkpoint is weights, classes and preprocessing together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from camseg.base.errors import InputError
from camseg.classify.network import FedNetwork, channels_last, check_class_names
from camseg.classify.preprocessing import check_form, per_channel
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
class Classifier(FedNetwork):
    """A network that says what is in an image: logits (N, classes), with everything needed to feed and to read it.

    Checked when made: InputError.
    """

    FILE: ClassVar[str] = "classifier.json"
    """The file in a run folder that holds all fields but the network."""
    KIND: ClassVar[str] = "classifier"
    """What it is called in messages."""

    def _check_classes(self) -> None:
        _check_classes(self.classes, self.negative)

    @staticmethod
    def build_network(settings: Mapping[str, Any]) -> nn.Module:
        """The network that fields of these values are of, with new weights, on the CPU."""
        return create_model(settings["arch"], len(settings["classes"]), model_args=settings["model_args"])

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
            model=channels_last(model.eval()),
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

    def predicted(self, probabilities: NDArray[np.float32]) -> list[list[int]]:
        """The likeliest class of each row (N, classes); multi-label: every class with probability >= 0.5."""
        if self.multi_label:
            return [np.flatnonzero(row >= 0.5).tolist() for row in probabilities]
        return [[int(index)] for index in probabilities.argmax(axis=1)]

    @property
    def head_layers(self) -> tuple[str, ...]:
        """The names in the network of the layers that classify: one, but for few architectures."""
        return head_names(self.model)

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
        return replace(self, model=channels_last(model.eval()).to(self.device), model_args=args)


def _check_classes(classes: Sequence[str], negative: Sequence[str]) -> None:
    check_class_names(classes)
    if unknown := sorted(set(negative) - set(classes)):
        raise InputError(f"the negative class {unknown[0]!r} is not one of {', '.join(classes)}")
