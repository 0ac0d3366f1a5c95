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
    from camseg.base.errors import CamsegError as CamsegError
    from camseg.cams.compute import compute_cams as compute_cams
    from camseg.classify.classifier import Classifier as Classifier
    from camseg.classify.classifier import load_classifier as load_classifier
    from camseg.data.images import read_image as read_image
    from camseg.data.images import write_mask as write_mask
    from camseg.label.chain import label_image as label_image
    from camseg.label.folder import label_folder as label_folder
    from camseg.masks.threshold import cam_to_mask as cam_to_mask
    from camseg.measure.evaluate import evaluate_folder as evaluate_folder
    from camseg.measure.metrics import mean_dice as mean_dice
    from camseg.propagation.propagate import propagate as propagate
    from camseg.refinement.refine import refine as refine
    from camseg.refinement.refine import refine_with_report as refine_with_report
    from camseg.refinement.trimaps import mask_to_trimap as mask_to_trimap
    from camseg.train.trainer import train_classifier as train_classifier

_HOMES = {
    "CamsegError": "camseg.base.errors",
    "Classifier": "camseg.classify.classifier",
    "cam_to_mask": "camseg.masks.threshold",
    "compute_cams": "camseg.cams.compute",
    "evaluate_folder": "camseg.measure.evaluate",
    "label_folder": "camseg.label.folder",
    "label_image": "camseg.label.chain",
    "load_classifier": "camseg.classify.classifier",
    "mask_to_trimap": "camseg.refinement.trimaps",
    "mean_dice": "camseg.measure.metrics",
    "propagate": "camseg.propagation.propagate",
    "read_image": "camseg.data.images",
    "refine": "camseg.refinement.refine",
    "refine_with_report": "camseg.refinement.refine",
    "train_classifier": "camseg.train.trainer",
    "write_mask": "camseg.data.images",
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
