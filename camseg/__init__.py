"""camseg: from image-level labels to pixel masks.

    image -> scores -> capture -> CAM -> propagated CAM -> mask -> trimap -> alpha -> refined mask -> file

    classifier = camseg.load_classifier("runs/cls")
    image = camseg.read_image("scan.png")
    cam = camseg.compute_cams(classifier, [image], targets=["tumour"])["layercam"][0]
    mask = camseg.cam_to_mask(camseg.propagate(image, cam), threshold="max:0.7")

``label_image`` does all of it for one image, ``label_folder`` for a folder. Names are loaded when first
used, so that importing camseg costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from camseg.cams import compute_cams as compute_cams
    from camseg.classifier import Classifier as Classifier
    from camseg.classifier import load_classifier as load_classifier
    from camseg.errors import CamsegError as CamsegError
    from camseg.evaluation import evaluate_folder as evaluate_folder
    from camseg.images import read_image as read_image
    from camseg.images import write_mask as write_mask
    from camseg.masks import cam_to_mask as cam_to_mask
    from camseg.metrics import mean_dice as mean_dice
    from camseg.pipeline import label_folder as label_folder
    from camseg.pipeline import label_image as label_image
    from camseg.propagation import propagate as propagate
    from camseg.refinement import refine as refine
    from camseg.refinement import refine_with_report as refine_with_report
    from camseg.training import train_classifier as train_classifier
    from camseg.trimaps import mask_to_trimap as mask_to_trimap

_HOMES = {
    "CamsegError": "camseg.errors",
    "Classifier": "camseg.classifier",
    "cam_to_mask": "camseg.masks",
    "compute_cams": "camseg.cams",
    "evaluate_folder": "camseg.evaluation",
    "label_folder": "camseg.pipeline",
    "label_image": "camseg.pipeline",
    "load_classifier": "camseg.classifier",
    "mask_to_trimap": "camseg.trimaps",
    "mean_dice": "camseg.metrics",
    "propagate": "camseg.propagation",
    "read_image": "camseg.images",
    "refine": "camseg.refinement",
    "refine_with_report": "camseg.refinement",
    "train_classifier": "camseg.training",
    "write_mask": "camseg.images",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'camseg' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
