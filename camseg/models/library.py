"""timm, and what is used of it: imported here alone, once what it imports itself can be imported."""

from camseg.base.compat import import_torchvision

import_torchvision()

import timm  # noqa: E402
from timm.data import resolve_model_data_config  # noqa: E402
from timm.models import PretrainedCfg, get_pretrained_cfg  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

__all__ = ["PretrainedCfg", "VisionTransformer", "get_pretrained_cfg", "resolve_model_data_config", "timm"]
