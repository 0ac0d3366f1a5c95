"""The registry of propagators: the command line, the documentation and the tests walk it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from camseg.base.registry import Method
from camseg.propagation.parameters import (
    CrfSettings,
    GridSettings,
    GuidedSettings,
    ParSettings,
    SuperpixelSettings,
    WalkSettings,
)


@dataclass(frozen=True, kw_only=True)
class Propagator(Method):
    """Guides (N, C, h, w), maps (N, K, h, w) and settings -> maps (N, K, h, w)."""

    settings: type[GridSettings]
    """The class of its settings; called without arguments it gives the defaults."""
    guide: Literal["image", "features"] = "image"
    """``image``: pixels (N, 3, h, w) in [0, 1]. ``features``: what a layer of the classifier gave, (N, C, h, w)."""


METHODS: Final[Mapping[str, Propagator]] = {
    "par": Propagator(function="propagation.par:par", settings=ParSettings, paper="Ru et al., CVPR 2022"),
    "crf": Propagator(function="propagation.crf:crf", settings=CrfSettings, paper="Kraehenbuehl and Koltun, NIPS 2011"),
    "guided": Propagator(
        function="propagation.guided:guided", settings=GuidedSettings, paper="He, Sun and Tang, PAMI 2013"
    ),
    "superpixels": Propagator(
        function="propagation.superpixels:superpixels", settings=SuperpixelSettings, paper="Achanta et al., PAMI 2012"
    ),
    "random-walk": Propagator(
        function="propagation.walk:random_walk",
        settings=WalkSettings,
        guide="features",
        paper="Ahn and Kwak, CVPR 2018",
    ),
}
