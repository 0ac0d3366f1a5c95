"""The registry of CAM methods: the command line, the documentation and the tests walk it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from camseg.base.errors import InputError
from camseg.base.registry import Method, choose


@dataclass(frozen=True, kw_only=True)
class CamMethod(Method):
    """Capture -> raw maps (N, h, w)."""

    needs: Literal["activations", "gradients", "rescoring", "input gradients", "grad-cam"]
    """Activations alone, gradients of the score at the layer too, further passes of the network with other images
    or activations, or with gradients at the input; or the grad-cam library, which is installed apart."""
    passes: str
    """Forward passes per image and view, a backward pass through the whole network counted as two; C is the layer's
    number of channels, L of layers."""
    at: Literal["layer", "input"] = "layer"
    """Where the map is read: at the chosen layer, or at the input, whatever the layer."""


METHODS: Final[Mapping[str, CamMethod]] = {
    "gradcam": CamMethod(
        function="cams.methods.gradient:gradcam", needs="gradients", passes="1", paper="Selvaraju et al., ICCV 2017"
    ),
    "hirescam": CamMethod(
        function="cams.methods.gradient:hirescam", needs="gradients", passes="1", paper="Draelos and Carin, 2020"
    ),
    "gradcam-elementwise": CamMethod(
        function="cams.methods.gradient:gradcam_elementwise",
        needs="gradients",
        passes="1",
        paper="Pillai and Pirsiavash, AAAI 2021",
    ),
    "gradcam++": CamMethod(
        function="cams.methods.gradient:gradcam_plus_plus",
        needs="gradients",
        passes="1",
        paper="Chattopadhay et al., WACV 2018",
    ),
    "xgradcam": CamMethod(
        function="cams.methods.gradient:xgradcam", needs="gradients", passes="1", paper="Fu et al., BMVC 2020"
    ),
    "layercam": CamMethod(
        function="cams.methods.gradient:layercam", needs="gradients", passes="1", paper="Jiang et al., IEEE TIP 2021"
    ),
    "eigencam": CamMethod(
        function="cams.methods.eigen:eigencam", needs="activations", passes="1", paper="Muhammad and Yeasin, IJCNN 2020"
    ),
    "eigengradcam": CamMethod(
        function="cams.methods.eigen:eigengradcam",
        needs="gradients",
        passes="1",
        paper="Muhammad and Yeasin, IJCNN 2020, of A * G",
    ),
    "smoothgradcam++": CamMethod(
        function="cams.methods.gradient:smooth_gradcam_plus_plus",
        needs="rescoring",
        passes="1 + 8",
        paper="Omeiza et al., 2019",
    ),
    "scorecam": CamMethod(
        function="cams.methods.scoring:scorecam",
        needs="rescoring",
        passes="1 + C",
        paper="Wang et al., CVPR Workshops 2020",
    ),
    "ablationcam": CamMethod(
        function="cams.methods.scoring:ablationcam",
        needs="rescoring",
        passes="1 + C, from the layer on",
        paper="Desai and Ramaswamy, WACV 2020",
    ),
    "saliency": CamMethod(
        function="cams.methods.attributions:saliency",
        needs="input gradients",
        passes="1 + 3",
        paper="Simonyan et al., ICLR Workshops 2014",
        at="input",
    ),
    "integrated-gradients": CamMethod(
        function="cams.methods.attributions:integrated_gradients",
        needs="input gradients",
        passes="1 + 96",
        paper="Sundararajan et al., ICML 2017",
        at="input",
    ),
    "occlusion": CamMethod(
        function="cams.methods.attributions:occlusion",
        needs="rescoring",
        passes="1 + 226",
        paper="Zeiler and Fergus, ECCV 2014",
        at="input",
    ),
    "finercam": CamMethod(
        function="cams.methods.peer:finercam", needs="grad-cam", passes="1 + 1", paper="Zhang et al., CVPR 2025"
    ),
    "shapleycam": CamMethod(
        function="cams.methods.peer:shapleycam", needs="grad-cam", passes="1 + 6", paper="Cai, 2025"
    ),
    "kpcacam": CamMethod(
        function="cams.methods.peer:kpcacam", needs="grad-cam", passes="1 + 1", paper="Karmani et al., 2024"
    ),
    "fem": CamMethod(
        function="cams.methods.peer:fem", needs="grad-cam", passes="1 + 1", paper="Fuad et al., IPTA 2020"
    ),
    "segeigencam": CamMethod(
        function="cams.methods.peer:segeigencam",
        needs="grad-cam",
        passes="1 + 1",
        paper="Chung and Ying, Applied Sciences 2025",
    ),
    "refinecam": CamMethod(
        function="cams.methods.peer:refinecam", needs="grad-cam", passes="1 + L", paper="arXiv 2605.14641", at="input"
    ),
    "fullgrad": CamMethod(
        function="cams.methods.peer:fullgrad",
        needs="grad-cam",
        passes="1 + 3",
        paper="Srinivas and Fleuret, NeurIPS 2019",
        at="input",
    ),
    "sess": CamMethod(
        function="cams.methods.peer:sess",
        needs="grad-cam",
        passes="1 + 244",
        paper="Tursun et al., ECCV 2022",
        at="input",
    ),
}
NATIVE: Final = tuple(name for name, method in METHODS.items() if method.needs != "grad-cam")
"""What ``all`` stands for: the methods that camseg computes itself."""


def check_methods(names: str | Sequence[str]) -> tuple[str, ...]:
    """The names without repeats, ``all`` spelled out as NATIVE; InputError, with the choices, for an unknown one."""
    given = [names] if isinstance(names, str) else names
    expanded = [name for one in given for name in (NATIVE if one == "all" else [one])]
    if not expanded:
        raise InputError(f"expected at least one CAM method of {', '.join(METHODS)}")
    for name in expanded:
        choose("CAM method", name, {**METHODS, "all": None})
    return tuple(dict.fromkeys(expanded))
