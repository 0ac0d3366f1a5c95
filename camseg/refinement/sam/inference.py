"""SAM on one image: seen once, asked about each part of the mask, and its answers put into the trimap."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from camseg.base.arrays import (
    BACKGROUND,
    FOREGROUND,
    Alpha,
    Cam,
    Image,
    Mask,
    Trimap,
    check_cam,
    check_image,
    check_mask,
    check_same_size,
    check_trimap,
)
from camseg.base.errors import InputError, first_line
from camseg.refinement.nearest import nearest_known
from camseg.refinement.sam.prompts import agrees, box_around, generator, jittered_boxes, most_central, parts, peaks
from camseg.refinement.sam.weights import SamNetwork, load_network


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What became of a mask's parts."""

    alpha: Alpha
    """(H, W), 0 or 1."""
    parts: int
    """How many parts the mask has."""
    kept: int
    """How many of them stayed as they were, since the answer agreed too little."""


@dataclass(frozen=True, eq=False)
class Sam:
    """A refiner: ``sam(image, trimap)`` -> alpha. ``load_sam`` makes one."""

    network: SamNetwork
    """What answers."""
    device: torch.device
    """Where the network is."""

    def __call__(self, image: Image, trimap: Trimap) -> Alpha:
        """The alpha of ``segment`` where nothing but the trimap is known."""
        return self.segment(image, trimap).alpha

    def segment(self, image: Image, trimap: Trimap, mask: Mask | None = None, cam: Cam | None = None) -> Answered:
        """What the network takes for the object, asked about each connected part of the mask.

        ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) in {0, 128, 255}, whose known pixels stay;
        ``mask``: bool (H, W), where there is none, or an empty one, what the trimap's nearest known pixels say;
        ``cam``: float32 (H, W) in [0, 1].

        The prompts of a part are its box and boxes whose sides have moved, each alone and with points at the map's
        peaks. The answer that agrees best with all others is taken, unless its intersection over union with the part
        is below 0.4: then the part stays as it is. The same bytes each time. Raises InputError.

        Kirillov et al., Segment Anything, ICCV 2023; Ravi et al., SAM 2, 2024 (arXiv:2408.00714).
        """
        check_same_size(check_image(image), check_trimap(trimap), "image and trimap")
        if mask is not None:
            check_same_size(image, check_mask(mask), "image and mask")
        if cam is not None:
            check_same_size(image, check_cam(cam), "image and map")
        whole = nearest_known(trimap) if mask is None or not mask.any() else mask
        result, count, kept = np.zeros(trimap.shape, bool), 0, 0
        rng = generator(image)
        embeddings = self._embeddings(image) if whole.any() else None
        for seed in parts(whole):
            count += 1
            boxes = jittered_boxes(box_around(seed), seed.shape, rng)
            answer = self._answer(embeddings, boxes, peaks(seed, cam), seed.shape)
            taken = agrees(answer, seed)
            result |= answer if taken else seed
            kept += not taken
        result[trimap == FOREGROUND], result[trimap == BACKGROUND] = True, False
        return Answered(alpha=result.astype(np.float32), parts=count, kept=kept)

    def _inner(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image of this size within the network's inputs."""
        side = self.network.side
        if self.network.stretched:
            return side, side
        height, width = (max(1, int(length * side / max(size) + 0.5)) for length in size)
        return height, width

    @torch.no_grad()
    def _embeddings(self, image: Image) -> Any:
        """What the network sees in an image (H, W, 3); its own form."""
        height, width = self._inner(image.shape[:2])
        pixels = torch.tensor(image).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
        pixels = functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True).round().clamp(0, 255)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.network.mean, self.network.std))
        side = self.network.side
        pixels = functional.pad((pixels / 255 - mean) / std, (0, side - width, 0, side - height))  # (1, 3, S, S)
        return self.network.model.get_image_embeddings(pixels.to(self.device))

    @torch.no_grad()
    def _answer(
        self, embeddings: Any, boxes: NDArray[np.float64], points: NDArray[np.float64], size: tuple[int, int]
    ) -> Mask:
        """The most central answer to boxes (K, 4), alone and with points (n, 2), bool (H, W)."""
        asked = self._placed(boxes, size)[None]  # (1, K, 4)
        inside = self._placed(points, size).expand(1, len(boxes), -1, -1)  # (1, K, n, 2)
        labels = torch.ones(inside.shape[:3], dtype=torch.long, device=self.device)
        ask = partial(self.network.model, image_embeddings=embeddings, input_boxes=asked, multimask_output=False)
        answers = [ask().pred_masks, ask(input_points=inside, input_labels=labels).pred_masks]  # (1, K, 1, h, w) each
        logits = torch.cat(answers, dim=1).flatten(0, 2).cpu()  # (2 K, h, w), of the network's whole input
        height, width = self._inner(size)
        shares = height / self.network.side, width / self.network.side
        seen = [max(1, round(length * share)) for length, share in zip(logits.shape[1:], shares, strict=True)]
        # At the size at which the network answers nothing is lost, and large photos cost no more than small ones.
        chosen = most_central(list((logits[:, : seen[0], : seen[1]] > 0).numpy()))
        whole = _resized(logits[chosen], (self.network.side, self.network.side))[:height, :width]
        answer: Mask = (_resized(whole, size) > 0).numpy()
        return answer

    def _placed(self, corners: NDArray[np.float64], size: tuple[int, int]) -> Tensor:
        """Pairs of x and y in an image of this size, as the network counts them: from the centres of its pixels."""
        height, width = self._inner(size)
        scale = np.array([width / size[1], height / size[0]])
        placed = corners.reshape(-1, 2) * scale - 0.5
        return torch.tensor(placed.reshape(corners.shape), dtype=torch.float32, device=self.device)


def load_sam(weights: Path | str, device: str | torch.device = "cpu") -> Sam:
    """Load SAM or SAM 2 from a folder as ``save_pretrained`` of transformers writes it; nothing is fetched.

    Raises InputError for a device that cannot be used and without transformers; CheckpointError for what is missing.
    """
    network = load_network(weights)
    try:
        network.model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device} cannot be used here ({first_line(error)}); try cpu") from None
    return Sam(network, torch.device(device))


def _resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w) -> (H, W)."""
    return functional.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0]
