"""What settings say of values that they cannot take: in words, whatever library checks them."""

from dataclasses import replace
from typing import Annotated, Literal

import pytest
from pydantic import BeforeValidator, Field

from camseg.base.errors import InputError
from camseg.base.settings import checked, from_json, settings
from camseg.cams.settings import CamSettings
from camseg.label.settings import LabelSettings


@settings
class Inner:
    """Within."""

    grid_size: Annotated[int, Field(ge=1, le=9)] = 3
    """A whole number."""


@settings
class Some:
    """Of every kind."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """A share."""
    scales: tuple[float, ...] | Literal["auto"] = "auto"
    """Several, or a word."""
    kind: Literal["a", "b"] = "a"
    """One of two."""
    flip: bool = False
    """Yes or no."""
    names: Annotated[tuple[str, ...], Field(min_length=1)] = ("x",)
    """Texts."""
    inner: Inner = Inner()
    """Settings within."""
    size: Annotated[str, BeforeValidator(checked(lambda text: text.strip()))] = "1"
    """What a parser reads."""


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"share": 0}, "expected share: more than 0; got 0"),
        ({"share": 1.5}, "expected share: less than 1; got 1.5"),
        ({"share": "x"}, "expected share: a number; got 'x'"),
        ({"share": float("nan")}, "expected share: a finite number; got nan"),
        ({"scales": "some"}, "expected scales: several values or 'auto'; got 'some'"),
        ({"kind": "c"}, "expected kind: 'a' or 'b'; got 'c'"),
        ({"flip": "perhaps"}, "expected flip: true or false; got 'perhaps'"),
        ({"names": ()}, "expected names: at least 1 values; got ()"),
        ({"names": (3,)}, "expected names: a text; got 3"),
        ({"inner": {"grid_size": 0}}, "expected inner.grid size: at least 1; got 0"),
        ({"inner": {"grid_size": 2.5}}, "expected inner.grid size: a whole number; got 2.5"),
        ({"inner": 7}, "expected inner: settings by name; got 7"),
        ({"steps": 3}, "unknown setting 'steps'; choose among share, scales, kind, flip, names, inner, size"),
        ({"size": 3}, "expected a text; got 3"),
    ],
)
def test_what_cannot_be_is_said_in_words(values, words):
    for make in (lambda: Some(**values), lambda: from_json(Some, values)):
        with pytest.raises(InputError) as refusal:
            make()
        assert str(refusal.value) == words


def test_what_is_left_out_of_settings_within_is_as_in_the_default_that_holds_them():
    told = from_json(LabelSettings, {"cams": {"methods": ["gradcam"]}, "refinement": {"method": "none"}})
    usual = LabelSettings()
    assert told == replace(
        usual, cams=replace(usual.cams, methods=("gradcam",)), refinement=replace(usual.refinement, method="none")
    )
    assert usual.cams != CamSettings()
    with pytest.raises(InputError, match="unknown setting 'size'"):
        from_json(LabelSettings, {"cams": {"size": 3}})
