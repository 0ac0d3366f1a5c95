"""The registry of CAM methods: the command line, the documentation and the tests walk it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor

from camseg.activations import Capture
from camseg.cams.eigen import eigencam, eigengradcam
from camseg.cams.gradient import gradcam, gradcam_elementwise, gradcam_plus_plus, hirescam, layercam, xgradcam
from camseg.cams.scoring import scorecam
from camseg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Method:
    """One CAM method and what a user wants to know before choosing it."""

    function: Callable[[Capture], Tensor]
    """Capture -> raw maps (N, h, w)."""
    needs: Literal["activations", "gradients", "rescoring"]
    """Activations alone, gradients of the score at the layer too, or further passes of the network."""
    passes: str
    """Forward passes per image and view; C is the layer's number of channels."""
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
    "scorecam": Method(function=scorecam, needs="rescoring", passes="1 + C", paper="Wang et al., CVPR Workshops 2020"),
}


def check_methods(names: Sequence[str]) -> tuple[str, ...]:
    """The names without repeats, ``all`` spelled out; InputError, with the choices, for an unknown one."""
    if isinstance(names, str):
        names = [names]
    expanded = [name for given in names for name in (METHODS if given == "all" else [given])]
    if not expanded:
        raise InputError(f"expected at least one CAM method of {', '.join(METHODS)}")
    for name in expanded:
        if name not in METHODS:
            raise InputError(f"unknown CAM method {name!r}; choose among {', '.join(METHODS)}, all")
    return tuple(dict.fromkeys(expanded))
