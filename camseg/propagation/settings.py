"""Which propagator spreads maps, and with what settings of its own."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from camseg.base.errors import InputError
from camseg.base.registry import choose
from camseg.base.settings import from_json, settings
from camseg.propagation.parameters import GridSettings
from camseg.propagation.registry import METHODS


@settings
class PropagateSettings:
    """A propagator by name, with those of its settings that are not the defaults."""

    method: str = "par"
    """par, crf, guided, superpixels or random-walk; in a chain none leaves maps as they are."""
    args: dict[str, Any] = field(default_factory=dict)
    """A setting of the method, such as rounds=5."""

    def __post_init__(self) -> None:
        if self.method != "none":
            make_settings(self.method, self.args)
        elif self.args:
            raise InputError("settings of a propagation, but no propagation; choose one, or leave them out")

    @property
    def needs_features(self) -> bool:
        """Whether the propagator walks over a classifier's features."""
        return self.method != "none" and METHODS[self.method].guide == "features"


def make_settings(method: str, values: Mapping[str, Any]) -> GridSettings:
    """A propagator's settings: its defaults, but for the fields named here. Raises InputError."""
    return from_json(choose("propagation", method, METHODS).settings, values)
