"""How files of masks are read: which class counts as object, and what the classes are called."""

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BeforeValidator, PlainSerializer

from camseg.base.errors import InputError
from camseg.base.settings import Option, checked, settings

ANY: Final = "any"
"""The choice of every class but the background and void."""
BACKGROUND_NAMES: Final = ("background", "_background_")
VOID_NAMES: Final = ("void", "ignore")
"""What classes are called whose pixels take part in no score."""
# fmt: off
VOC: Final = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
"""The classes of Pascal VOC in the order of their numbers."""


@dataclass(frozen=True, kw_only=True)
class MaskClasses:
    """What class numbers, or colours, stand for."""

    numbers: Mapping[str, int]
    """Numbers by name; empty where colours tell the classes."""
    colors: Mapping[str, str]
    """Colours by name, #RRGGBB in capitals; empty where numbers tell the classes."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names in their order."""
        return tuple(self.numbers or self.colors)


def parse_mask_classes(source: MaskClasses | Mapping[str, Any] | str | Path) -> MaskClasses:
    """A class map from its file, a CSV ``name,value`` or a JSON {name: value}, the word ``voc``, or the mapping itself.

    Values are whole numbers, or colours #RRGGBB. Raises InputError.
    """
    if isinstance(source, MaskClasses):
        return source
    if isinstance(source, Mapping):
        return _classes("class map", list(source.items()))
    if str(source) == "voc":
        numbers = {name: number for number, name in enumerate(VOC)} | {"void": 255}
        return MaskClasses(numbers=numbers, colors={name: voc_color(number) for name, number in numbers.items()})
    try:
        text = Path(source).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"expected a file of mask classes, or voc; there is no {source}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: cannot be read as UTF-8 text ({error})") from None
    if text.lstrip().startswith("{"):
        try:
            return _classes(str(source), json.loads(text, object_pairs_hook=list))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source}: not valid JSON ({error})") from None
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(row)]
    except csv.Error as error:
        raise InputError(f"{source}: not a readable CSV ({error})") from None
    if bad := next((row for row in rows if len(row) != 2), None):
        raise InputError(f"{source}: expected rows name,value; got {','.join(bad)!r}")
    header = bool(rows) and rows[0][1].lower() in ("value", "id", "number", "color", "colour", "class")
    return _classes(str(source), [(name, value) for name, value in rows[header:]])


def _classes(source: str, pairs: Any) -> MaskClasses:
    numbers: dict[str, int] = {}
    colors: dict[str, str] = {}
    for pair in pairs:
        name, value = (str(pair[0]).strip(), pair[1]) if isinstance(pair, (list, tuple)) else ("", pair)
        if not name or name in numbers or name in colors:
            raise InputError(f"{source}: expected a name of its own for each class; got {name!r}")
        text = str(value).strip()
        if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
            colors[name] = text.upper()
        elif re.fullmatch(r"-?[0-9]{1,9}", text) and not isinstance(value, bool):
            numbers[name] = int(text)
        else:
            raise InputError(f"{source}: expected a whole number or #RRGGBB as the value of {name!r}; got {value!r}")
    if not numbers and not colors:
        raise InputError(f"{source}: expected classes, as name,value in a CSV or {{name: value}} in JSON; got none")
    if numbers and colors:
        raise InputError(f"{source}: expected numbers or colours as values; it mixes both")
    return MaskClasses(numbers=numbers, colors=colors)


def voc_color(number: int) -> str:
    """The colour of a class in Pascal VOC's palette: its bits, three at a time, fill R, G and B from the top."""
    red = green = blue = 0
    for place in range(8):
        bits = number >> (3 * place)
        red, green, blue = (
            band | ((bits >> shift & 1) << (7 - place)) for shift, band in enumerate((red, green, blue))
        )
    return f"#{red:02X}{green:02X}{blue:02X}"


def _to_config(classes: MaskClasses) -> dict[str, Any] | str:
    """What was read, so that it needs no file again."""
    return "voc" if classes.numbers and classes.colors else dict(classes.numbers or classes.colors)


MaskClassesText: TypeAlias = Annotated[
    MaskClasses,
    BeforeValidator(checked(parse_mask_classes)),
    PlainSerializer(_to_config),
    Option(metavar="FILE|voc"),
]
"""A field of settings that takes a class map, its file or its word."""


def _to_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


MaskClassText: TypeAlias = Annotated[str, BeforeValidator(_to_text), Option(metavar="N|NAME|any")]
"""A field of settings that takes the number or name of a class, or ``any``."""


@settings
class MaskReading:
    """How files of masks are read; by default they hold black and white, or 0 and 1."""

    mask_class: MaskClassText | None = None
    """The object's class where masks hold class numbers or colours: a number, a name of mask classes, or any for all
    but the background."""
    mask_classes: MaskClassesText | None = None
    """What the classes are called: a CSV name,value, a JSON {name: value}, values being numbers or #RRGGBB, or voc for
    Pascal VOC's."""

    def __post_init__(self) -> None:
        classes, chosen = self.mask_classes, self.mask_class
        if chosen is None:
            if classes is not None:
                raise InputError("classes have names, but none is chosen; choose one by mask class, or leave names out")
        elif self.number is None and self.color is None and chosen != ANY:
            known = "a number" if classes is None else f"one of {', '.join(classes.names)}"
            hint = "; mask classes give names" if classes is None else ""
            raise InputError(f"expected as mask class {known}, or {ANY}; got {chosen!r}{hint}")

    @property
    def number(self) -> int | None:
        """The class number that counts as object; None for any, and where colours tell the classes."""
        classes, chosen = self.mask_classes, self.mask_class
        if chosen is None or (classes is not None and not classes.numbers):
            return None
        if classes is not None and chosen in classes.numbers:
            return classes.numbers[chosen]
        return int(chosen) if re.fullmatch(r"-?[0-9]{1,9}", chosen) else None

    @property
    def color(self) -> str | None:
        """The colour that counts as object; None for any, and where only numbers tell the classes."""
        if self.mask_classes is None:
            return None
        number, numbers = self.number, self.mask_classes.numbers
        name = next((name for name, value in numbers.items() if value == number), self.mask_class)
        return self.mask_classes.colors.get(name or "")

    @property
    def void_number(self) -> int | None:
        """The class number whose pixels count nowhere: the one named so, else 255 where that is no class's."""
        numbers = {} if self.mask_classes is None else self.mask_classes.numbers
        void = 255
        if self.names_void:
            void = next(numbers[name] for name in VOID_NAMES if name in numbers)
        elif 255 in numbers.values():
            return None
        return None if self.number == void else void

    @property
    def names_void(self) -> bool:
        """Whether a class number is named as void."""
        return self.mask_classes is not None and any(name in self.mask_classes.numbers for name in VOID_NAMES)

    @property
    def background_number(self) -> int:
        """The class number of what belongs to no class: the one named so, else 0."""
        numbers = {} if self.mask_classes is None else self.mask_classes.numbers
        return next((numbers[name] for name in BACKGROUND_NAMES if name in numbers), 0)
