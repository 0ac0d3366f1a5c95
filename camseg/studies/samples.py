"""The sample data: photographs of metal panels that never were, half of them with patches of rust.

Every picture is arithmetic on uniform random numbers, so a seed gives the same arrays everywhere
and nothing has to be downloaded. Only granular relief and a rusty colour in one place tell the
classes apart: rust lies anywhere, and is lighter or darker than its panel; primer has its colour,
lime its relief, and these, as well as stains, part numbers, scratches, dust and glare, are as
frequent on clean panels as on rusty ones.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from camseg.base.arrays import Image, Mask, quantise
from camseg.base.errors import InputError

NEGATIVE_CLASS, OBJECT_CLASS = "clean", "rust"
SHOTS_PER_PANEL = 4
"""Two of a clean part of the panel, two of a rusty one."""
MIN_SIZE = 32

Pixels: TypeAlias = NDArray[np.float64]
"""(H, W), or (H, W, 3) for colours, which are in [0, 1] at the end."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One photograph of a panel, with all that is known about it."""

    split: str
    """``train`` or ``test``."""
    label: str
    """``NEGATIVE_CLASS`` or ``OBJECT_CLASS``."""
    name: str
    """Unique over both splits: a file name without suffix."""
    group: str
    """The panel: images of one panel share its material and colour, and are in one split."""
    distractors: tuple[str, ...]
    """What else lies on the panel, from ``DISTRACTORS``."""
    image: Image
    """(size, size, 3), RGB."""
    mask: Mask
    """(size, size): where rust covers more than half of the pixel."""


def generate_samples(*, train: int = 160, test: int = 60, size: int = 128, seed: int = 0) -> Iterator[Shot]:
    """Yield ``train`` and then ``test`` samples of ``size`` x ``size`` pixels, clean and rusty in turn.

    An image depends on ``seed``, ``size`` and its own panel and shot alone: other counts give the
    same images as far as they go.

    Raises InputError unless the counts are multiples of ``SHOTS_PER_PANEL``, ``size`` is at least
    ``MIN_SIZE`` and ``seed`` is not negative.
    """
    if min(train, test) < 0 or train % SHOTS_PER_PANEL or test % SHOTS_PER_PANEL:
        raise InputError(f"expected counts in multiples of {SHOTS_PER_PANEL}, one panel; got {train} and {test}")
    if size < MIN_SIZE or seed < 0:
        raise InputError(f"expected a size of {MIN_SIZE} or more and a seed of 0 or more; got {size} and {seed}")
    return (
        _sample(split, index // SHOTS_PER_PANEL, index % SHOTS_PER_PANEL, size, seed)
        for split, count in (("train", train), ("test", test))
        for index in range(count)
    )


def _sample(split: str, panel: int, shot: int, size: int, seed: int) -> Shot:
    stream = (seed, ("train", "test").index(split), panel)
    # A clean shot and the rusty one after it share their distractors by name, though not by place:
    # so each distractor is exactly as frequent in one class as in the other.
    chance = _generator(*stream, 1, shot // 2)
    distractors = tuple(name for name in DISTRACTORS if chance.random() < 0.5)
    rusty = shot % 2 == 1
    rng = _generator(*stream, 2, shot)
    grid = _Grid.of(size)

    colors = _panel(panel, grid, rng) * _between(_generator(*stream, 0), 0.75, 1.1)
    for name, draw in _BELOW.items():
        if name in distractors:
            colors = draw(colors, grid, rng)
    alpha = np.zeros((size, size))
    if rusty:
        alpha = _rust_alpha(grid, rng)
        colors = _blend(colors, _rust(colors, alpha, grid, rng), alpha)
    for name, draw in _ABOVE.items():
        if name in distractors:
            colors = draw(colors, grid, rng)
    group = f"{split}{panel + 1:02d}"
    return Shot(
        split=split,
        label=OBJECT_CLASS if rusty else NEGATIVE_CLASS,
        name=f"{group}_{'abcd'[shot]}",
        group=group,
        distractors=distractors,
        image=quantise(_expose(colors, grid, rng)),
        mask=alpha > 0.5,
    )


# ---- noise ---------------------------------------------------------------------------------------
# Only Generator.random is drawn from: its way from the bit stream to a number has never changed.


def _generator(*key: int) -> Generator:
    return Generator(PCG64(SeedSequence(key)))


def _between(rng: Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _count(rng: Generator, low: int, high: int) -> int:
    return low + int((high - low + 1) * rng.random())


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Where the pixels are: ``y`` and ``x`` in (0, 1), so that a picture's content scales with its size."""

    y: Pixels
    x: Pixels

    @classmethod
    def of(cls, size: int) -> "_Grid":
        axis = (np.arange(size) + 0.5) / size
        y, x = np.meshgrid(axis, axis, indexing="ij")
        return cls(y=y, x=x)

    def turned(self, angle: float, y: float = 0.5, x: float = 0.5, aspect: float = 1.0) -> "_Grid":
        """The grid around (y, x), turned by ``angle`` and squeezed along its own x axis."""
        dy, dx, cos, sin = self.y - y, self.x - x, np.cos(angle), np.sin(angle)
        return _Grid(y=cos * dy - sin * dx, x=(sin * dy + cos * dx) / aspect)

    def radius(self) -> Pixels:
        return np.sqrt(self.y**2 + self.x**2)


def _somewhere(grid: _Grid, rng: Generator, *, margin: float = 0.0, aspect: float = 1.0) -> _Grid:
    """The grid around a random place that keeps ``margin`` from the border, in a random direction."""
    y, x = _between(rng, margin, 1 - margin), _between(rng, margin, 1 - margin)
    return grid.turned(_between(rng, 0, 2 * np.pi), y, x, aspect)


def _noise(grid: _Grid, rng: Generator, cells: float, octaves: int = 1) -> Pixels:
    """Value noise in [-1, 1], ``cells`` lattice cells to the unit; each octave is twice as fine and half as high."""
    period, total, height = 64, np.zeros_like(grid.y), 0.0
    for octave in range(octaves):
        lattice = 2.0 * rng.random((period, period)) - 1.0
        v = grid.y * cells * 2**octave + period * rng.random()
        u = grid.x * cells * 2**octave + period * rng.random()
        row, column = np.floor(v).astype(np.int64), np.floor(u).astype(np.int64)
        v, u = _smooth(v - row), _smooth(u - column)
        top, bottom, left, right = row % period, (row + 1) % period, column % period, (column + 1) % period
        upper = lattice[top, left] * (1 - u) + lattice[top, right] * u
        lower = lattice[bottom, left] * (1 - u) + lattice[bottom, right] * u
        total += (upper * (1 - v) + lower * v) / 2**octave
        height += 1 / 2**octave
    return total / height


def _smooth(share: Pixels) -> Pixels:
    """The step 3s^2 - 2s^3 from 0 to 1, flat outside [0, 1]."""
    share = np.clip(share, 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def _blend(below: Pixels, above: Pixels | tuple[float, ...], alpha: Pixels) -> Pixels:
    return below + (np.asarray(above) - below) * alpha[..., None]


def _luminance(colors: Pixels) -> Pixels:
    luminance: Pixels = colors @ np.array([0.299, 0.587, 0.114])
    return luminance


# ---- the panel -----------------------------------------------------------------------------------

_PAINTS = (  # cream, red oxide, sea green, ochre, steel blue, terracotta
    (0.62, 0.58, 0.47),
    (0.54, 0.30, 0.22),
    (0.36, 0.45, 0.43),
    (0.62, 0.45, 0.22),
    (0.40, 0.47, 0.56),
    (0.66, 0.42, 0.31),
)


def _panel(panel: int, grid: _Grid, rng: Generator) -> Pixels:
    """The surface of one panel: every other one is painted, in every colour in turn, and the rest is bare."""
    if panel % 2 == 0:
        return _painted(np.array(_PAINTS[panel // 2 % len(_PAINTS)]), grid, rng)
    return _brushed(grid, rng) if panel % 4 == 1 else _galvanised(grid, rng)


def _brushed(grid: _Grid, rng: Generator) -> Pixels:
    along = grid.turned(_between(rng, 0, np.pi), aspect=18)
    lines = 0.6 * _noise(along, rng, 45, 2) + 0.4 * _noise(grid, rng, 3, 3)
    return np.array([0.50, 0.52, 0.54]) * (1 + 0.28 * lines)[..., None]


def _painted(paint: Pixels, grid: _Grid, rng: Generator) -> Pixels:
    peel, wear = _noise(grid, rng, 30, 2), _noise(grid, rng, 3, 4)
    return paint * (1 + 0.10 * peel + 0.22 * wear)[..., None]


def _galvanised(grid: _Grid, rng: Generator) -> Pixels:
    warp = 0.02 * _noise(grid, rng, 12, 2)
    seeds = rng.random((60, 4))  # y, x, brightness and hue of each zinc crystal
    distance = (grid.y[..., None] + warp[..., None] - seeds[:, 0]) ** 2 + (grid.x[..., None] - seeds[:, 1]) ** 2
    _, _, brightness, hue = np.moveaxis(seeds[np.argmin(distance, axis=2)], 2, 0)
    shade = 1 + 0.35 * (brightness - 0.5) + 0.14 * _noise(grid, rng, 24, 2)
    colors: Pixels = np.array([0.50, 0.53, 0.56]) + 0.03 * (hue[..., None] - 0.5) * np.array([1, 0, -1])
    lit: Pixels = colors * shade[..., None]
    return lit


def _expose(colors: Pixels, grid: _Grid, rng: Generator) -> Pixels:
    """Light from one side, the colour cast of a lamp, and the sensor's grain."""
    slope = grid.turned(_between(rng, 0, 2 * np.pi)).x
    light = 1 + _between(rng, 0.3, 0.9) * slope + 0.12 * _noise(grid, rng, 2, 2)
    cast = 1 + 0.16 * (rng.random(3) - 0.5)
    grain = rng.random((*slope.shape, 3)) + rng.random(slope.shape)[..., None] - 1
    return np.clip(colors * light[..., None] * cast + 0.035 * grain, 0, 1)


# ---- the object ----------------------------------------------------------------------------------

_RUST_HUES = ((1.62, 0.80, 0.40), (1.30, 0.93, 0.58))  # orange and brown of luminance 1


def _rust_alpha(grid: _Grid, rng: Generator) -> Pixels:
    """One or two blurred patches, 4 to 20 % of the picture."""
    return _patches(grid, rng, area=_between(rng, 0.04, 0.20), roughness=0.9, blur=_between(rng, 0.03, 0.12))


def _rust(colors: Pixels, alpha: Pixels, grid: _Grid, rng: Generator) -> Pixels:
    """Crust and pits; as light as the panel under it, or somewhat lighter or darker."""
    orange, brown = (np.array(hue) for hue in _RUST_HUES)
    share = _smooth(0.5 + 0.9 * _noise(grid, rng, 9, 3))
    hue = 1 + (_blend(np.broadcast_to(brown, colors.shape), orange, share) - 1) * _between(rng, 0.5, 0.95)
    level = np.average(_luminance(colors), weights=alpha) * _between(rng, 0.75, 1.2)
    return np.clip(level * hue * _relief(grid, rng)[..., None], 0.03, 1)


def _patches(grid: _Grid, rng: Generator, *, area: float, roughness: float, blur: float) -> Pixels:
    """The alpha of one or two irregular patches: a noisy hill, cut at the height that gives the area."""
    count = _count(rng, 1, 2)
    extent = np.sqrt(area / np.pi / count)
    hills = []
    for _ in range(count):
        around = _somewhere(grid, rng, margin=0.15, aspect=_between(rng, 1, 2))
        hills.append(1 - around.radius() / (extent * _between(rng, 0.8, 1.2)))
    height = np.maximum.reduce(hills) + roughness * _noise(grid, rng, 0.9 / extent, 4)
    return _smooth(0.5 + (height - np.quantile(height, 1 - area)) * extent / blur)


def _relief(grid: _Grid, rng: Generator) -> Pixels:
    """The shading of a granular surface, about 1."""
    height = _noise(grid, rng, 26, 3)
    slope = sum(np.gradient(height, 1 / len(height)))
    return 1 + 0.6 * height + 0.01 * slope


# ---- what does not decide the class --------------------------------------------------------------


def _stain(colors: Pixels, grid: _Grid, rng: Generator) -> Pixels:
    """Dried water or spilt oil: smooth, light or dark."""
    alpha = _patches(grid, rng, area=_between(rng, 0.03, 0.15), roughness=0.4, blur=_between(rng, 0.03, 0.12))
    strength = _between(rng, 0.35, 0.6) if rng.random() < 0.6 else _between(rng, 1.3, 1.6)
    warmth = _between(rng, 0, 0.3)
    return colors * (1 + (strength * np.array([1 + warmth, 1, 1 - warmth]) - 1) * alpha[..., None])


def _paint(colors: Pixels, grid: _Grid, rng: Generator) -> Pixels:
    """Primer, smooth and of the colours of rust."""
    alpha = _patches(grid, rng, area=_between(rng, 0.03, 0.15), roughness=0.5, blur=_between(rng, 0.02, 0.06))
    hue = 1 + (np.array(_RUST_HUES[_count(rng, 0, 1)]) - 1) * _between(rng, 0.8, 1.4)
    shade = np.mean(_luminance(colors)) * _between(rng, 0.75, 1.2) * (1 + 0.15 * _noise(grid, rng, 6, 2))
    return _blend(colors, hue * shade[..., None], 0.9 * alpha)


def _lime(colors: Pixels, grid: _Grid, rng: Generator) -> Pixels:
    """Mineral crust: in relief as rust is, and without its colour."""
    alpha = _patches(grid, rng, area=_between(rng, 0.03, 0.12), roughness=0.9, blur=_between(rng, 0.02, 0.05))
    level = np.mean(_luminance(colors)) * _between(rng, 0.8, 1.4) * _relief(grid, rng)
    return _blend(colors, level[..., None] * np.array([0.97, 1.0, 1.01]), alpha)


_GLYPHS = {  # 3 x 5 dots, row by row
    "0": "111101101101111",
    "1": "010110010010111",
    "2": "111001111100111",
    "3": "111001111001111",
    "4": "101101111001001",
    "5": "111100111001111",
    "6": "111100111101111",
    "7": "111001010010010",
    "8": "111101111101111",
    "9": "111101111001111",
    "A": "010101111101101",
    "F": "111100110100100",
    "H": "101101111101101",
    "K": "101110100110101",
    "X": "101101010101101",
}


def _marking(colors: Pixels, grid: _Grid, rng: Generator) -> Pixels:
    """A part number in printed dots, light or dark."""
    glyphs = list(_GLYPHS.values())
    text = [glyphs[_count(rng, 0, len(glyphs) - 1)] for _ in range(_count(rng, 4, 7))]
    dots = np.concatenate([np.pad(np.array(list(glyph), float).reshape(5, 3), ((1, 1), (1, 0))) for glyph in text], 1)
    around = grid.turned(_between(rng, -0.4, 0.4), _between(rng, 0.15, 0.85), _between(rng, 0.3, 0.7))
    pitch = _between(rng, 0.020, 0.028)
    v, u = around.y / pitch + dots.shape[0] / 2, around.x / pitch + dots.shape[1] / 2
    row = np.clip(np.floor(v).astype(np.int64), 0, dots.shape[0] - 1)
    column = np.clip(np.floor(u).astype(np.int64), 0, dots.shape[1] - 1)
    distance = np.sqrt((v - row - 0.5) ** 2 + (u - column - 0.5) ** 2)
    alpha = dots[row, column] * _smooth((0.75 - distance) / 0.4)
    return _blend(colors, (0.88,) * 3 if rng.random() < 0.5 else (0.08,) * 3, 0.85 * alpha)


def _scratch(colors: Pixels, grid: _Grid, rng: Generator) -> Pixels:
    """Thin bent lines, bright where the metal shows, with a dark lip."""
    for _ in range(_count(rng, 1, 4)):
        around = _somewhere(grid, rng)
        length, width = _between(rng, 0.15, 0.5), _between(rng, 0.004, 0.009)
        across = around.y - _between(rng, -0.8, 0.8) * around.x**2 + 0.01 * _noise(grid, rng, 8)
        ends = _smooth((length - np.abs(around.x)) / 0.1)
        colors = _blend(colors, (0.10,) * 3, 0.5 * ends * _smooth(1.5 - np.abs(across - width) / width))
        colors = _blend(colors, (0.92,) * 3, _between(rng, 0.5, 0.9) * ends * _smooth(1.5 - np.abs(across) / width))
    return colors


def _dust(colors: Pixels, grid: _Grid, rng: Generator) -> Pixels:
    """Bright and dark specks of a few pixels."""
    for _ in range(_count(rng, 8, 30)):
        radius, tone = _between(rng, 0.005, 0.018), 0.9 if rng.random() < 0.6 else 0.1
        around = _somewhere(grid, rng, aspect=_between(rng, 1, 2))
        colors = _blend(colors, (tone,) * 3, 0.8 * _smooth(1.5 - around.radius() / radius))
    return colors


def _glare(colors: Pixels, grid: _Grid, rng: Generator) -> Pixels:
    """Soft highlights of a lamp."""
    for _ in range(_count(rng, 1, 2)):
        around = _somewhere(grid, rng, aspect=_between(rng, 1, 3))
        spot = np.exp(-((around.radius() / _between(rng, 0.05, 0.12)) ** 2))
        colors = colors + (_between(rng, 0.3, 0.6) * spot)[..., None]
    return colors


_Drawing = Callable[[Pixels, _Grid, Generator], Pixels]
# Rust grows over the first and lies under the second; each is drawn in this order.
_BELOW: Mapping[str, _Drawing] = {"stain": _stain, "paint": _paint, "lime": _lime, "marking": _marking}
_ABOVE: Mapping[str, _Drawing] = {"scratch": _scratch, "dust": _dust, "glare": _glare}
DISTRACTORS = (*_BELOW, *_ABOVE)
