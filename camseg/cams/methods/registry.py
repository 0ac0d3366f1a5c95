"""The registry of CAM methods: the command line, the documentation and the tests walk it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor

from camseg.base.errors import InputError
from camseg.cams.capture import Capture
from camseg.cams.methods.attributions import PLACES, STEPS, integrated_gradients, occlusion, saliency
from camseg.cams.methods.eigen import eigencam, eigengradcam
from camseg.cams.methods.gradient import (
    SAMPLES,
    gradcam,
    gradcam_elementwise,
    gradcam_plus_plus,
    hirescam,
    layercam,
    smooth_gradcam_plus_plus,
    xgradcam,
)
from camseg.cams.methods.peer import fem, finercam, fullgrad, kpcacam, refinecam, segeigencam, sess, shapleycam
from camseg.cams.methods.scoring import ablationcam, scorecam


@dataclass(frozen=True, kw_only=True)
class Method:
    """One CAM method and what a user wants to know before choosing it."""

    function: Callable[[Capture], Tensor]
    """Capture -> raw maps (N, h, w)."""
    needs: Literal["activations", "gradients", "rescoring", "input gradients", "grad-cam"]
    """Activations alone, gradients of the score at the layer too, further passes of the network with other images
    or activations, or with gradients at the input; or the grad-cam library, which is installed apart."""
    passes: str
    """Forward passes per image and view, a backward pass through the whole network counted as two; C is the layer's
    number of channels, L of layers."""
    paper: str
    """Where it was published."""
    at: Literal["layer", "input"] = "layer"
    """Where the map is read: at the chosen layer, or at the input, whatever the layer."""


METHODS: Final[Mapping[str, Method]] = {
    "gradcam": Method(function=gradcam, needs="gradients", passes="1", paper="Selvaraju et al., ICCV 2017"),
    "hirescam": Method(function=hirescam, needs="gradients", passes="1", paper="Draelos and Carin, 2020"),
    "gradcam-elementwise": Method(
        function=gradcam_elementwise, needs="gradients", passes="1", paper="Pillai and Pirsiavash, AAAI 2021"
    ),
    "gradcam++": Method(
        function=gradcam_plus_plus, needs="gradients", passes="1", paper="Chattopadhay et al., WACV 2018"
    ),
    "xgradcam": Method(function=xgradcam, needs="gradients", passes="1", paper="Fu et al., BMVC 2020"),
    "layercam": Method(function=layercam, needs="gradients", passes="1", paper="Jiang et al., IEEE TIP 2021"),
    "eigencam": Method(function=eigencam, needs="activations", passes="1", paper="Muhammad and Yeasin, IJCNN 2020"),
    "eigengradcam": Method(
        function=eigengradcam, needs="gradients", passes="1", paper="Muhammad and Yeasin, IJCNN 2020, of A * G"
    ),
    "smoothgradcam++": Method(
        function=smooth_gradcam_plus_plus, needs="rescoring", passes=f"1 + {SAMPLES}", paper="Omeiza et al., 2019"
    ),
    "scorecam": Method(function=scorecam, needs="rescoring", passes="1 + C", paper="Wang et al., CVPR Workshops 2020"),
    "ablationcam": Method(
        function=ablationcam,
        needs="rescoring",
        passes="1 + C, from the layer on",
        paper="Desai and Ramaswamy, WACV 2020",
    ),
    "saliency": Method(
        function=saliency,
        needs="input gradients",
        passes="1 + 3",
        paper="Simonyan et al., ICLR Workshops 2014",
        at="input",
    ),
    "integrated-gradients": Method(
        function=integrated_gradients,
        needs="input gradients",
        passes=f"1 + {3 * STEPS}",
        paper="Sundararajan et al., ICML 2017",
        at="input",
    ),
    "occlusion": Method(
        function=occlusion,
        needs="rescoring",
        passes=f"1 + {1 + PLACES**2}",
        paper="Zeiler and Fergus, ECCV 2014",
        at="input",
    ),
    "finercam": Method(function=finercam, needs="grad-cam", passes="1 + 1", paper="Zhang et al., CVPR 2025"),
    "shapleycam": Method(function=shapleycam, needs="grad-cam", passes="1 + 6", paper="Cai, 2025"),
    "kpcacam": Method(function=kpcacam, needs="grad-cam", passes="1 + 1", paper="Karmani et al., 2024"),
    "fem": Method(function=fem, needs="grad-cam", passes="1 + 1", paper="Fuad et al., IPTA 2020"),
    "segeigencam": Method(
        function=segeigencam, needs="grad-cam", passes="1 + 1", paper="Chung and Ying, Applied Sciences 2025"
    ),
    "refinecam": Method(function=refinecam, needs="grad-cam", passes="1 + L", paper="arXiv 2605.14641", at="input"),
    "fullgrad": Method(
        function=fullgrad, needs="grad-cam", passes="1 + 3", paper="Srinivas and Fleuret, NeurIPS 2019", at="input"
    ),
    "sess": Method(function=sess, needs="grad-cam", passes="1 + 244", paper="Tursun et al., ECCV 2022", at="input"),
}
NATIVE: Final = tuple(name for name, method in METHODS.items() if method.needs != "grad-cam")
"""What ``all`` stands for: the methods that camseg computes itself."""


def check_methods(names: Sequence[str]) -> tuple[str, ...]:
    """The names without repeats, ``all`` spelled out as NATIVE; InputError, with the choices, for an unknown one."""
    if isinstance(names, str):
        names = [names]
    expanded = [name for given in names for name in (NATIVE if given == "all" else [given])]
    if not expanded:
        raise InputError(f"expected at least one CAM method of {', '.join(METHODS)}")
    for name in expanded:
        if name not in METHODS:
            raise InputError(f"unknown CAM method {name!r}; choose among {', '.join(METHODS)}, all")
    return tuple(dict.fromkeys(expanded))
