"""Makes the installed torchvision importable beside a CPU-only torch.

timm imports torchvision. Where torchvision was built for CUDA and torch was not, its compiled
operators do not load, and its import fails with ``operator torchvision::nms does not exist``,
although nothing here calls them. Declaring their schemas before that import cures it.
"""

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# A Library's definitions live as long as the object does.
_declared: list[torch.library.Library] = []


def import_torchvision() -> None:
    """Import torchvision, declaring its operators' schemas first if, and only if, the import needs them."""
    try:
        import torchvision
    except (RuntimeError, AttributeError) as error:
        if _declared or "torchvision" not in str(error):
            raise
    else:
        return
    library = torch.library.Library("torchvision", "DEF")
    _declared.append(library)
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    import torchvision  # noqa: F401


def declares_operators() -> bool:
    """Whether ``import_torchvision`` had to declare schemas: torchvision's compiled operators are not usable here."""
    return bool(_declared)
