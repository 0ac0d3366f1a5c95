"""The registry of refiners: the command line, the documentation and the tests walk it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from camseg.base import registry
from camseg.base.errors import InputError
from camseg.base.registry import Method

AUTO: Final = "auto"
"""The choice among ``CANDIDATES`` and the mask, image by image."""
CANDIDATES: Final = ("closed-form", "grabcut")
"""What ``auto`` chooses from."""


@dataclass(frozen=True, kw_only=True)
class Refiner(Method):
    """(Image, Trimap) -> Alpha; of a trained network the function loads it: (its weights, device) -> that."""

    weights: str = ""
    """Of a trained network, which comes without weights: what is to be passed, and where that is from."""
    gives_colors: bool = False
    """Whether the network has ``matte``, which gives the object's colours too."""
    starts_from_mask: bool = False
    """Whether the network has ``segment``, which is asked about a mask and its map, not about the trimap alone."""

    @property
    def needs_weights(self) -> bool:
        """Whether it is a trained network."""
        return bool(self.weights)


METHODS: Final[Mapping[str, Refiner]] = {
    "closed-form": Refiner(
        function="refinement.closed_form:closed_form",
        paper="Levin, Lischinski, Weiss: A Closed-Form Solution to Natural Image Matting, PAMI 2008",
    ),
    "grabcut": Refiner(
        function="refinement.grabcut:grabcut",
        paper="Rother, Kolmogorov, Blake: GrabCut: Interactive Foreground Extraction, SIGGRAPH 2004",
    ),
    "knn": Refiner(function="refinement.laplacians:knn", paper="Chen, Li, Tang: KNN Matting, CVPR 2012"),
    "lkm": Refiner(
        function="refinement.laplacians:large_kernel",
        paper="He, Sun, Tang: Fast Matting Using Large Kernel Matting Laplacian Matrices, CVPR 2010",
    ),
    "fba": Refiner(
        function="refinement.fba:load_fba",
        paper="Forte, Pitie: F, B, Alpha Matting, arXiv:2003.07711, 2020",
        weights="FILE (weights=FILE in Python) with the published ones, which are for non-commercial use",
        gives_colors=True,
    ),
    "sam": Refiner(
        function="refinement.sam:load_sam",
        paper="Kirillov et al.: Segment Anything, ICCV 2023; Ravi et al.: SAM 2, arXiv:2408.00714, 2024",
        weights="FOLDER (weights=FOLDER in Python), as save_pretrained of transformers writes it",
        starts_from_mask=True,
    ),
}


def check_refiner(name: str, weights: str | Path | None) -> None:
    """Raise InputError for an unknown refiner, a network without weights, or weights for what needs none."""
    refiner = registry.choose("refiner", name, {AUTO: None, **METHODS})
    needed = "" if refiner is None else refiner.weights
    if needed and weights is None:
        raise InputError(
            f"{name} is a trained network and comes without weights: pass --weights {needed}; closed-form needs none"
        )
    if weights is not None and not needed:
        raise InputError(f"{name} takes no weights; leave them out, or choose {trained()}")


def trained() -> str:
    """The trained networks by name, in words."""
    return " or ".join(name for name, refiner in METHODS.items() if refiner.needs_weights)
