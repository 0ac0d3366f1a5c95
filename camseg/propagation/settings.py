"""What the settings of every propagator share."""

import math
from dataclasses import asdict, dataclass

from camseg.base.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The grid on which a map is spread; every propagator adds its own settings and has its own defaults."""

    working_size: int
    """Longest side of the grid, in cells: a larger guide is averaged down to it, a smaller one keeps its size."""

    def __post_init__(self) -> None:
        self.check(self.working_size >= 8, "a working size of at least 8")
        numbers = [value for value in asdict(self).values() if isinstance(value, float)]
        self.check(all(math.isfinite(number) for number in numbers), "finite numbers")

    def check(self, holds: bool, expected: str) -> None:
        """Raise InputError, which says what was expected and what came, unless the settings hold."""
        if not holds:
            raise InputError(f"expected {expected}; got {self}")
