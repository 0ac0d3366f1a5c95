"""Where layers hold what: patches of the input are disturbed, and a map in the image's order answers at these places.

Shapes cannot say in which order tokens lie. What a network does can, and with any weights: the order is the
architecture's. So where the given weights mix all places too much to tell, other ones are drawn for the purpose.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from camseg.cams.hooks import Hook, hooked, inference, private_copy
from camseg.cams.layout import Layout

_PLACES: Final = (
    (0.14, 0.12),
    (0.13, 0.87),
    (0.88, 0.15),
    (0.86, 0.89),
    (0.3, 0.62),
    (0.37, 0.36),
    (0.66, 0.28),
    (0.62, 0.71),
)
"""The middles of the patches, (y, x) as shares of the side: one near each corner, and some between them. No mirror
image of them is like them."""
_CORNERS: Final = 4


def settle_layouts(
    model: nn.Module, side: int, possible: Mapping[str, Sequence[Layout]]
) -> tuple[dict[str, Layout], dict[str, str]]:
    """For each layer its ``possible`` layout by which its map lies as the image does, or why none is taken.

    ``side``: of the square inputs, pixels. The network runs once over six images; if that leaves layers open, a copy
    of it runs twice over nine.
    """
    settled: dict[str, Layout] = {}
    reasons: dict[str, str] = {}
    for answers in _trials(model, side, possible):
        reasons = {}
        for name, layouts in possible.items():
            if name in settled:
                continue
            heard = [answers(name, layout) for layout in layouts]
            found = [layout for layout, (proven, _) in zip(layouts, heard, strict=True) if proven]
            if found:
                settled[name] = found[0]
            else:
                elsewhere = any(sharp for _, sharp in heard)
                reasons[name] = (
                    "does not lie as the image does: where a patch of the image changes, other places of it answer"
                    if elsewhere
                    else "may lie in any order: no place of it answers to one place of the image"
                )
        # A plain shape in here stands within tokens, where most are attention's own: not worth a second look.
        if all(len(possible[name]) == 1 and possible[name][0].kind != "tokens" for name in reasons):
            break
    return settled, reasons


Trial = Callable[[str, Layout], tuple[bool, bool]]
"""(layer, layout) -> whether its map answers where the image was disturbed, and whether it answers at few places."""


def _trials(model: nn.Module, side: int, possible: Mapping[str, Sequence[Layout]]) -> Iterator[Trial]:
    """From cheap evidence to strong one. The large patch is for coarse maps, of which it fills a cell."""
    yield _trial(model, side, possible, places=5, needed=4, patch=0.1)
    drawn = _drawn(model)
    for patch in (0.1, 0.27):
        yield _trial(drawn, side, possible, places=8, needed=6, patch=patch)


def _trial(
    model: nn.Module,
    side: int,
    possible: Mapping[str, Sequence[Layout]],
    *,
    places: int,
    needed: int,
    patch: float,
) -> Trial:
    chosen = _PLACES[:places]
    answers = _answers(model, _disturbed(model, side, chosen, patch), possible)

    def judge(name: str, layout: Layout) -> tuple[bool, bool]:
        answer = answers.get((name, layout))
        if answer is None:
            return False, False
        strength = answer / answer.mean(dim=(1, 2), keepdim=True).clamp_min(1e-30)  # (places, h, w)
        # Some places answer loudly whatever is disturbed: they are heard less.
        proven = any(_follows(form, chosen, patch, needed) for form in (strength, strength - strength.mean(dim=0)))
        return proven, float(strength.amax(dim=(1, 2)).median()) > 4.0

    return judge


def _follows(answers: Tensor, places: Sequence[tuple[float, float]], patch: float, needed: int) -> bool:
    """Whether the answer (places, h, w) to a patch is the greatest there, for as many of the places (y, x) as needed.

    A cell may belong to what lies half a cell beside it, as strides and paddings have it. So of maps with two or three
    cells a side only the corners tell, and each has to.
    """
    _, height, width = answers.shape
    peaks = answers.flatten(1).argmax(dim=1)
    found = torch.stack([peaks // width, peaks % width], dim=1).double().add(0.5)
    found = found / torch.tensor([height, width], dtype=torch.float64)
    far = (found - torch.tensor(places, dtype=torch.float64)).abs().amax(dim=1)
    if height < 4:
        return bool((far[:_CORNERS] <= 0.75 / height).all())
    return int((far <= max(1.05 / height, 0.12, 0.6 * patch)).sum()) >= needed


def _disturbed(model: nn.Module, side: int, places: Sequence[tuple[float, float]], patch: float) -> Tensor:
    """Noise, and the same noise with a square at each place: (1 + places, 3, side, side)."""
    noise = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0))
    images = noise.expand(1 + len(places), -1, -1, -1).clone()
    weight = next(model.parameters())
    half = max(1, round(patch * side / 2))
    for n, (y, x) in enumerate(places):
        top, left = (max(0, int(share * side) - half) for share in (y, x))
        # As light as dark, in turns.
        images[n + 1, :, top : int(y * side) + half, left : int(x * side) + half] = 3.0 if n % 2 == 0 else -3.0
    return torch.as_tensor(images, dtype=weight.dtype, device=weight.device)


def _answers(
    model: nn.Module, images: Tensor, possible: Mapping[str, Sequence[Layout]]
) -> dict[tuple[str, Layout], Tensor]:
    """By layer and layout, how much each place of the map differs from the first image's: (images - 1, h, w)."""
    try:
        return _differences(model, [images], possible)
    except torch.OutOfMemoryError:
        return _differences(model, list(images.split(1)), possible)


def _differences(
    model: nn.Module, batches: Sequence[Tensor], possible: Mapping[str, Sequence[Layout]]
) -> dict[tuple[str, Layout], Tensor]:
    answers: dict[tuple[str, Layout], list[Tensor]] = {}
    plain: dict[tuple[str, Layout], Tensor] = {}  # the first image's

    def listen(name: str, layouts: Sequence[Layout]) -> Hook:
        def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
            if isinstance(output, Tensor) and len(output) == len(batch):
                for layout in layouts:
                    maps = layout.maps(output).float()
                    change = maps - plain.setdefault((name, layout), maps[:1])
                    # What attention tells all places alike says nothing of them.
                    change = change - change.mean(dim=(2, 3), keepdim=True)
                    answers.setdefault((name, layout), []).append(change.abs().sum(dim=1))

        return hook

    hooks = {name: listen(name, layouts) for name, layouts in possible.items()}
    with inference(model), torch.inference_mode(False), torch.no_grad(), hooked(model, hooks):
        for batch in batches:  # which the hooks read
            model(batch)
    return {key: torch.cat(parts)[1:].double().nan_to_num(0.0, 0.0, 0.0).cpu() for key, parts in answers.items()}


def _drawn(model: nn.Module) -> nn.Module:
    """A private copy whose weights keep places apart: every layer as loud as the one before, none silent.

    Kernels of convolutions are tents: no pixel is passed over, and no neighbours cancel each other. Scales of branches
    and gains of batch norms that start at or near zero are 1.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(like: Tensor, shape: Sequence[int], inputs: int) -> Tensor:
        return torch.as_tensor(
            torch.randn(*shape, generator=generator) / inputs**0.5, dtype=like.dtype, device=like.device
        )

    drawn = private_copy(model)
    with torch.no_grad():
        for module in drawn.modules():
            for name, weight in module._parameters.items():
                if weight is None:
                    continue
                if name == "weight" and isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                    mixed = noise(weight, weight.shape[:2], weight.shape[1])
                    for size in weight.shape[2:]:
                        mixed = mixed[..., None] * _tent(size).to(weight)
                    weight.copy_(mixed)
                elif name == "weight" and isinstance(module, nn.Linear):
                    weight.copy_(noise(weight, weight.shape, weight.shape[1]))
                elif name == "attention_biases" and weight.ndim == 2:
                    # LeViT and its kin: by distance, the first being none. Attention looks at its own place.
                    weight.zero_()[:, 0] = 6.0
                elif weight.numel() == max(weight.shape, default=1) and "bias" not in name and weight.abs().max() < 0.1:
                    weight.fill_(1.0)
    return drawn.train().eval()  # which empties what modules remember of their weights


def _tent(size: int) -> Tensor:
    """Weights (size,) that fall from the middle to both ends, with the sum 1."""
    weights = 1.0 - (torch.arange(size) - (size - 1) / 2).abs() / ((size + 1) / 2)
    return weights / weights.sum()
