"""How maps are extracted from a classifier."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from camseg.base.errors import InputError
from camseg.base.settings import Option, settings, to_json
from camseg.cams.methods.registry import check_methods

Score: TypeAlias = Literal["class", "margin"]
"""``class``: the target's logit. ``margin``: the target's logit minus the best negative class's."""
PixelScore: TypeAlias = Literal["mean", "predicted", "mask"]
"""Of a segmenter's logits of the target ``mean``: their mean over the image; ``predicted``: the sum over the pixels
that are predicted as it; ``mask``: the sum over a given mask."""
Precision: TypeAlias = Literal["float32", "bf16", "fp16"]
"""In what numbers the network runs up to the first chosen layer; from there on always in float32."""
Weighed: TypeAlias = Literal["auto", "few"]
"""Scales whose maps are weighed by the object's size."""
WEIGHED: Final[Mapping[Weighed, tuple[float, ...]]] = {"auto": (0.75, 1.0, 1.5, 2.0), "few": (0.75, 1.0, 1.75)}
"""Which they are, as far as the network takes inputs of these sizes."""
Scales: TypeAlias = tuple[Annotated[float, Field(ge=0.1, le=8.0)], ...] | Weighed
"""Sides of the network's input, relative to the classifier's image size, or the name of those that are weighed."""
Effort: TypeAlias = Literal["fast", "balanced", "best"]
"""How many views of an image are looked at."""
EFFORTS: Final[Mapping[Effort, tuple[Scales, bool]]] = {
    "fast": ((1.0,), False),
    "balanced": ("few", False),
    "best": ("auto", True),
}
"""The scales of each effort, and whether mirrored images are looked at too: 1, 4.6 and 15.6 passes at scale 1."""


@settings
class CamSettings:
    """How maps are extracted."""

    methods: Annotated[tuple[str, ...], BeforeValidator(check_methods)] = ("layercam",)
    """CAM method, as camseg methods lists them; all stands for those that need no further library."""
    score: Literal["auto"] | Score | PixelScore = "class"
    """What gradients are taken of: the class's score, its margin over the best negative class, or auto: margin where
    there is a negative class. Of a segmentation network the mean of the class's logits over the image (mean, as class
    and auto), or their sum over the pixels predicted as it (predicted) or over a given mask (mask)."""
    layers: Annotated[tuple[str, ...], Field(min_length=1)] = ("auto",)
    """Layer of the network, as camseg layers lists them, maps of several are fused; auto: the last one whose map the
    scores depend on; stages: that and the last with a finer map. Of a segmentation network auto is its bottleneck, and
    stages that and its last-decoder; both can be named so."""
    effort: Effort = "fast"
    """Views of each image: fast (as it is), balanced (scales few), or best (scales auto, and mirrored images)."""
    scales: Annotated[Scales | None, Option(default="those of --effort")] = None
    """Input sizes relative to the classifier's, such as 1,1.5,2, whose maps are averaged; auto weighs 0.75, 1, 1.5 and
    2 by the object's size, few 0.75, 1 and 1.75."""
    flip: Annotated[bool | None, Option(default="as --effort does")] = None
    """Also look at mirrored images and average."""
    score_channels: Annotated[int, Field(ge=1)] | None = None
    """Channels of every image that scorecam tries, those that vary most over it; default: all."""
    precision: Precision = "float32"
    """Numbers that the network calculates with up to the layer."""
    raw: bool = False
    """Unnormalised maps as float32 TIFF, whose values compare across images."""
    gate: Annotated[bool, Option(hidden=True)] = True
    """Give targets that are negative classes all-zero maps."""

    def __post_init__(self) -> None:
        if self.scales == ():
            raise InputError("expected at least one scale between 0.1 and 8, or auto, or few")
        if isinstance(self.scales, tuple) and len(set(self.scales)) < len(self.scales):
            raise InputError(f"expected different scales, got {list(self.scales)}")

    @property
    def chosen_scales(self) -> Scales:
        """The scales as they were given, else as the effort has them."""
        return EFFORTS[self.effort][0] if self.scales is None else self.scales

    @property
    def mirrors(self) -> bool:
        """Whether mirrored images are looked at: as was given, else as the effort does."""
        return EFFORTS[self.effort][1] if self.flip is None else self.flip

    @property
    def weighs(self) -> bool:
        """Whether scales are weighed by the object's size."""
        return self.chosen_scales in WEIGHED

    @property
    def tried_scales(self) -> tuple[float, ...]:
        """The scales as numbers."""
        chosen = self.chosen_scales
        return chosen if isinstance(chosen, tuple) else WEIGHED[chosen]

    def identity(self) -> dict[str, Any]:
        """What decides the maps, as JSON values: scales and flip as they were chosen, whether an effort named them."""
        facts = to_json(replace(self, scales=self.chosen_scales, flip=self.mirrors))
        del facts["effort"]
        return facts
