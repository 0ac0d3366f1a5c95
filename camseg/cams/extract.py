"""One batch through the network at every scale and mirrored: its maps for every method, fused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camseg.base.progress import Say, unheard
from camseg.cams.capture import Forward
from camseg.cams.fusion import Fusion, Targets
from camseg.cams.placing import Grids, ViewMaps
from camseg.cams.plan import MemberPlan, Plan

Choose: TypeAlias = Callable[[int, NDArray[np.float32]], Sequence[int]]
"""(index in the batch, probabilities (classes,)) -> that image's targets."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchCams:
    """The fused maps of one batch."""

    maps: Mapping[str, list[list[Grids]]]
    """Per method, image and target."""
    targets: Targets
    """The targets that were used."""
    probabilities: NDArray[np.float32]
    """(N, classes) at scale 1."""
    guides: NDArray[np.float32] | None
    """What the guiding layer gave (N, C, h, w); None without one."""
    without_pixels: Sequence[set[int]]
    """Of each image's targets those that no pixel of a segmenter counts for: their maps are all zero."""
    views: list[list[ViewMaps]] = field(default_factory=list)
    """Where they were asked for, per image and target: what each view gave of the only method."""


class BatchLimit:
    """How many images the device's memory takes at once: halved, and once said, when it runs out."""

    def __init__(self, say: Say = unheard) -> None:
        self.size: int | None = None
        self.say = say

    def halve(self, tried: int) -> None:
        """Take note that ``tried`` images were too many."""
        if self.size is None:
            self.say(f"{tried} images at once do not fit into the device's memory; going on with smaller batches")
        self.size = tried // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def stack_inputs(inputs: Sequence[Sequence[NDArray[Any]]]) -> list[Tensor]:
    """Per image its squares, as ``Plan.inputs`` gives them -> for each of these uint8 (N, s, s, 3), or bool (N, s, s,
    classes)."""
    return [torch.from_numpy(np.stack(squares)) for squares in zip(*inputs, strict=True)]


def extract(
    plan: Plan, squares: Sequence[Tensor], choose: Choose, limit: BatchLimit | None = None, *, apart: bool = False
) -> BatchCams:
    """Maps of one batch for every method, fused over scales, mirror images and layers; ``apart``: by view too.

    ``squares``: as ``stack_inputs`` gives them. Every view's maps are divided by
    their own maximum before they are averaged, so that each view has one voice (``scale_weights`` decides otherwise
    with the scales ``auto``); with ``raw`` they are averaged as they are. Images without a target that needs a map
    take part in the first pass only. A batch that does not fit into the device's memory is halved, and later ones
    are cut as small.
    """
    limit = limit or BatchLimit()
    count, parts, start = len(squares[0]), [], 0
    while start < count:
        size = min(limit.size or count, count - start)
        rows = slice(start, start + size)
        try:
            parts.append(_extract([square[rows] for square in squares], plan, _from(choose, start), apart))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        else:
            start += size
            continue
        limit.halve(size)  # only now: what the error held on to is free
    return BatchCams(
        maps={name: [image for part in parts for image in part.maps[name]] for name in plan.settings.methods},
        targets=[row for part in parts for row in part.targets],
        probabilities=np.concatenate([part.probabilities for part in parts]),
        guides=np.concatenate(guides) if (guides := [one.guides for one in parts if one.guides is not None]) else None,
        views=[image for part in parts for image in part.views],
        without_pixels=[found for part in parts for found in part.without_pixels],
    )


def _from(choose: Choose, start: int) -> Choose:
    return lambda n, probabilities: choose(start + n, probabilities)


def _extract(squares: Sequence[Tensor], plan: Plan, choose: Choose, apart: bool) -> BatchCams:
    rest = iter(squares)
    own = [[next(rest) for _ in member.input_scales] for member in plan.members]
    regions = [[next(rest) if plan.regional else None for _ in member.input_scales] for member in plan.members]
    firsts = [
        member.network.forward(
            member.network.classifier.normalise(views[0]),
            gradients=member.gradients,
            features=plan.classifier.reads_features,
            guide=member.guide,
            regions=_moved(counted[0], member),
        )
        for member, views, counted in zip(plan.members, own, regions, strict=True)
    ]
    votes = plan.classifier.vote([first.logits for first in firsts], [first.features for first in firsts])
    probabilities = votes.cpu().numpy()
    targets = [list(choose(n, row)) for n, row in enumerate(probabilities)]
    maps, single = [], []
    silent = firsts[0].without_pixels(targets)  # of a segmenter, which is its own only member
    for member, views, counted, first in zip(plan.members, own, regions, firsts, strict=True):
        # Members may have the same classes in another order.
        index = [member.network.classifier.class_index(name) for name in plan.classifier.classes]
        wanted = [[index[target] for target in row] for row in targets]
        fused_maps, view_maps = _member_maps(views, counted, member, first, wanted, silent, apart)
        maps.append(fused_maps)
        single.append(view_maps)
    fused = {name: _by_image([found[name] for found in maps]) for name in plan.settings.methods}
    guide = firsts[0].guide
    return BatchCams(
        maps=fused,
        targets=targets,
        probabilities=probabilities,
        guides=None if guide is None else guide.cpu().numpy(),
        views=_by_image(single) if apart else [],
        without_pixels=silent,
    )


Maps: TypeAlias = list[list[NDArray[np.float32]]]
"""By image and target."""


def _by_image(maps: Sequence[Maps]) -> list[list[tuple[NDArray[np.float32], ...]]]:
    """Each member's maps -> by image and target those of all members."""
    return [list(zip(*rows, strict=True)) for rows in zip(*maps, strict=True)]


def _member_maps(
    squares: Sequence[Tensor],
    regions: Sequence[Tensor | None],
    plan: MemberPlan,
    first: Forward,
    targets: Targets,
    silent: Sequence[set[int]],
    apart: bool,
) -> tuple[dict[str, Maps], Maps]:
    """One network's maps by method, image and target, and ``apart`` the first method's by view; ``first``: its pass
    over the squares of scale 1; ``silent``: of each image the targets whose maps are all zero."""
    settings, classifier = plan.settings, plan.network.classifier
    known = [name for name in classifier.negative if name in classifier.classes]  # a segmenter's may be labels alone
    negative = {classifier.class_index(name) for name in known} if settings.gate else set()
    gated = [negative | own for own in silent]
    live = [n for n, row in enumerate(targets) if set(row) - gated[n]]
    depth = max((len(targets[n]) for n in live), default=0)
    fused = Fusion(plan, live, depth, apart=apart)
    for scale, square, region in zip(plan.input_scales, squares, regions, strict=True):
        if scale not in plan.scales:
            continue
        for mirrored in (False, True) if settings.mirrors else (False,):
            if scale == 1.0 and not mirrored:
                fused.add(first, targets, range(len(targets)), scale, mirrored)
                continue
            # As many pixels at once as at scale 1: what fits there fits here, and caches hold it.
            size = max(1, int(len(targets) / max(1.0, scale**2)))
            for chunk in (live[start : start + size] for start in range(0, len(live), size)):
                x = classifier.normalise(square[chunk])
                x = x.flip(3) if mirrored else x
                counted = _moved(None if region is None else region[chunk], plan, mirrored)
                view = plan.network.forward(x, gradients=plan.gradients, regions=counted)
                fused.add(view, targets, chunk, scale, mirrored)
    side = classifier.image_size
    zero = np.zeros((side, side), np.float32)
    maps = {}
    for name in settings.methods:
        grids = fused.grids(name, side).cpu().numpy() if live else None  # (live, depth, S, S)
        maps[name] = [
            [zero if target in gated[n] or grids is None else grids[fused.place[n], k] for k, target in enumerate(row)]
            for n, row in enumerate(targets)
        ]
    if not apart:
        return maps, []
    views = fused.views(settings.methods[0]).cpu().numpy() if live else None
    none = np.zeros((0, 0, 0, 1, 1), np.float32)
    return maps, [
        [none if target in gated[n] or views is None else views[fused.place[n], k] for k, target in enumerate(row)]
        for n, row in enumerate(targets)
    ]


def _moved(regions: Tensor | None, plan: MemberPlan, mirrored: bool = False) -> Tensor | None:
    """Regions (N, s, s, classes) on the network's device, turned around for mirrored images."""
    if regions is None:
        return None
    regions = regions.to(plan.network.classifier.device)
    return regions.flip(2) if mirrored else regions
