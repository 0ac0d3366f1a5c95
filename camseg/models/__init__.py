"""Names -> networks: timm's architectures and those of the papers, with weights from timm, from a file, or none."""

from camseg.base.compat import import_torchvision

import_torchvision()  # first of all: timm imports it, and it may have to be made importable

from camseg.models.building import (  # noqa: E402
    ModelArgs,
    check_architecture,
    create_model,
    create_sized_model,
    default_image_size,
    involution_kernels,
    normalisation,
    pretrained_classes,
)
from camseg.models.heads import HEADS  # noqa: E402
from camseg.models.names import ARCHITECTURES, canonical_name, split_name  # noqa: E402
from camseg.models.weights import (  # noqa: E402
    Weights,
    calm_head,
    head_names,
    head_parameters,
    load_backbone,
    read_weights,
    resampled,
)

__all__ = [
    "ARCHITECTURES",
    "HEADS",
    "ModelArgs",
    "Weights",
    "calm_head",
    "canonical_name",
    "check_architecture",
    "create_model",
    "create_sized_model",
    "default_image_size",
    "head_names",
    "head_parameters",
    "involution_kernels",
    "load_backbone",
    "normalisation",
    "pretrained_classes",
    "read_weights",
    "resampled",
    "split_name",
]
