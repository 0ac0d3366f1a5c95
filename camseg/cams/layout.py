"""A layer's output -> maps: how outputs can hold them, as far as shapes tell."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a layer's output holds a map: (N, C, h, w), (N, h, w, C), or tokens (N, prefix + h w, C)."""

    kind: Literal["channels first", "channels last", "tokens"] = "channels first"
    prefix: int = 0
    """Tokens before those of the map, such as the class token."""
    order: tuple[int, ...] = ()
    """Which of the map's tokens lies at each place, row by row; empty where the tokens themselves lie so."""

    def fits(self, output: Tensor) -> bool:
        """Whether an output of this shape can hold a map so."""
        if self.kind != "tokens":
            return output.ndim == 4
        count = output.shape[1] - self.prefix if output.ndim == 3 else 0
        return count > 0 and round(count**0.5) ** 2 == count and len(self.order) in (0, count)

    def maps(self, output: Tensor) -> Tensor:
        """A layer's output -> (N, C, h, w)."""
        if self.kind == "channels last":
            return output.permute(0, 3, 1, 2)
        if self.kind == "tokens":
            grid = output[:, self.prefix :]  # (N, h w, C)
            if self.order:
                grid = grid[:, torch.tensor(self.order, device=grid.device)]
            side = round(grid.shape[1] ** 0.5)
            square: Tensor = grid.unflatten(1, (side, side)).permute(0, 3, 1, 2)
            return square
        return output

    def output(self, maps: Tensor, like: Tensor) -> Tensor:
        """(M, C, h, w) -> what the layer would give; tokens before the map are those of ``like``'s only image."""
        if self.kind == "channels last":
            return maps.permute(0, 2, 3, 1)
        if self.kind == "tokens":
            prefix = like[:, : self.prefix].expand(len(maps), -1, -1)
            grid = maps.flatten(2).transpose(1, 2)  # (M, h w, C)
            if self.order:
                grid = grid[:, torch.tensor(self.order, device=grid.device).argsort()]
            return torch.cat([prefix, grid], dim=1)
        return maps


def plain_layout(output: object, model: nn.Module) -> Layout | None:
    """The layout that the shape of an output settles by itself; None for tokens, cubes and what is no map.

    Inputs are square, so maps are too: that tells (N, C, h, w) from (N, h, w, C).
    """
    if not isinstance(output, Tensor) or output.ndim != 4:
        return None
    _, a, b, c = output.shape
    if a == b == c > 1:
        return None
    last = _states_last(model) if (a == b) == (b == c) else a == b
    return Layout(kind="channels last" if last else "channels first")


def possible_layouts(output: object, model: nn.Module) -> tuple[Layout, ...]:
    """Every way in which an output of this shape may hold a map, the likeliest first; () when it holds none."""
    if not isinstance(output, Tensor):
        return ()
    if plain := plain_layout(output, model):
        return (plain,)
    if output.ndim == 4:
        both = (Layout(kind="channels first"), Layout(kind="channels last"))
        return both[::-1] if _states_last(model) else both
    if output.ndim == 3:
        own = int(getattr(model, "num_prefix_tokens", 0) or 0)
        for layout in (Layout(kind="tokens", prefix=prefix) for prefix in (own, 0, 1, 2)):
            if layout.fits(output) and output.shape[1] - layout.prefix > 1:
                return (layout, *_rolled(model, output.shape[1] - layout.prefix, layout.prefix))
    return ()


def _states_last(model: nn.Module) -> bool:
    # timm's own statement.
    return getattr(getattr(model, "output_fmt", None), "value", getattr(model, "output_fmt", "NCHW")) == "NHWC"


def _rolled(model: nn.Module, count: int, prefix: int) -> Iterator[Layout]:
    """The order in which a network of mask units (Hiera) keeps so many tokens, by its own way back to rows."""
    for module in model.modules():
        schedule = getattr(module, "schedule", None)
        if type(module).__name__ != "Reroll" or not isinstance(schedule, dict):
            continue
        for block, (_, (height, width)) in schedule.items():
            if height * width == count:
                rows = module(torch.arange(float(count))[None, :, None], block)
                yield Layout(kind="tokens", prefix=prefix, order=tuple(rows.flatten().int().tolist()))
                return
