"""Lengths and areas as users write them: pixels, or a percentage of what they refer to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, PlainSerializer

from camseg.base.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Size:
    """A length or an area; ``str`` gives its text back."""

    value: float
    """Pixels, or a share."""
    relative: bool = False
    """Whether the value is a share: of the image or of the object, as the option says that takes it."""

    def __str__(self) -> str:
        return f"{100 * self.value:g}%" if self.relative else f"{self.value:g}"

    def of(self, whole: float) -> float:
        """The size in pixels, where ``whole`` is what a share refers to."""
        # Rounded, so that 29 % of 100 are the 29 pixels that they are on paper.
        return round(self.value * whole, 6) if self.relative else self.value


def parse_size(size: "str | float | Size") -> Size:
    """The size that ``50`` or ``"50"`` (pixels) or ``"10%"`` stands for; raises InputError."""
    if isinstance(size, Size):
        return size
    word = str(size).strip()
    try:
        value = float(word.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1e9:
        raise InputError(
            f"expected a size of 0 or more, at most 1e9, in pixels, as in 5, or in percent, as in 10%; got {word!r}"
        )
    return Size(value=value / 100, relative=True) if word.endswith("%") else Size(value=value)


def _from_config(value: Any) -> Size:
    return Size(**value) if isinstance(value, Mapping) else parse_size(value)


SizeText: TypeAlias = Annotated[Size, BeforeValidator(_from_config), PlainSerializer(str)]
"""A field of settings that takes a size or its text."""
