"""The losses of segmentation networks by name; nothing heavy is loaded."""

from typing import Final

from camseg.base.registry import Method, choose

LOSSES: Final[dict[str, Method]] = {
    "dice": Method(
        function="train.losses:dice",
        paper="Milletari, Navab, Ahmadi: V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image "
        "Segmentation, 3DV 2016",
    ),
    "cross-entropy": Method(
        function="train.losses:cross_entropy",
        paper="binary, or of exclusive classes categorical; what the papers on segmentation networks here report",
    ),
    "focal": Method(
        function="train.losses:focal", paper="Lin et al.: Focal Loss for Dense Object Detection, ICCV 2017"
    ),
    "jaccard": Method(
        function="train.losses:jaccard",
        paper="Rahman, Wang: Optimizing Intersection-Over-Union in Deep Neural Networks, ISVC 2016",
    ),
    "tversky": Method(
        function="train.losses:tversky",
        paper="Salehi, Erdogmus, Gholipour: Tversky loss function for image segmentation, MLMI 2017; misses count "
        "0.7, false alarms 0.3",
    ),
    "lovasz": Method(
        function="train.losses:lovasz", paper="Berman, Rannen Triki, Blaschko: The Lovasz-Softmax loss, CVPR 2018"
    ),
}
"""``function(multi_label) -> module``: of logits (N, C, h, w) and a target as ``losses.Criterion`` gives it."""


def loss_terms(text: str) -> tuple[str, ...]:
    """The names in a sum of losses, such as ``dice+cross-entropy``; InputError for one that there is not."""
    names = tuple(part.strip() for part in text.split("+"))
    for name in names:
        choose("loss", name, LOSSES)
    return names
