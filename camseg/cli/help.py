"""What ``--help`` shows of a command: its options in groups, and one call as an example."""

from collections.abc import Mapping
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

GENERAL: Final = "Options"
"""The group of options that belong to no settings."""

EXAMPLES: Final[Mapping[str, str]] = {
    "train-cls": "camseg train-cls photos --negative clean --weights imagenet --out runs/cls",
    "train-seg": "camseg train-seg photos --masks true_masks --model unet+mobilenetv2_100 --out runs/seg",
    "ensemble": "camseg ensemble runs/a runs/b --out runs/both",
    "layers": "camseg layers runs/cls",
    "kernels": "camseg kernels runs/med_ic photos/scratch/1.png --out kernels.png",
    "methods": "camseg methods --json",
    "models": "camseg models",
    "cams": "camseg cams photos --classifier runs/cls --method layercam --target predicted --out out/cams",
    "propagate": "camseg propagate photos --cams out/cams --method par --out out/spread",
    "masks": "camseg masks out/cams --threshold max:0.75 --out out/masks",
    "trimap": "camseg trimap out/masks --dilate 20% --erode 20% --out out/trimaps",
    "refine": "camseg refine photos --trimap out/trimaps --masks out/masks --out out/refined",
    "evaluate": "camseg evaluate out/refined --masks true_masks --json",
    "audit": "camseg audit runs/cls photos --masks true_masks --out out/audit",
    "compare": "camseg compare photos --models resnet18,mobilenetv2_100 --masks true_masks --out out/compared",
    "choose": "camseg choose runs/a runs/b runs/c photos --limit 30",
    "label": "camseg label photos --classifier runs/cls --save overlays --out out",
    "segment": "camseg segment photos --segmenter runs/seg --save cams --out out",
    "merge": "camseg merge out",
    "export": "camseg export out --format cvat --images none --out for_cvat",
    "import": "camseg import out cvat_export.zip --format cvat",
    "quality": "camseg quality out --calibrate",
    "review": "camseg review out --order worst",
    "loop": "camseg loop out --save-threshold level.json",
    "report": "camseg report out --masks true_masks --out report.html",
    "prepare rois": "camseg prepare rois scans.csv --masks scan_masks --mirror --out rois",
    "prepare slices": "camseg prepare slices volumes --labels label_volumes --class tumour=1,4 --out slices",
    "prepare dicom": "camseg prepare dicom archive --window -160,240 --out images",
    "prepare frames": "camseg prepare frames videos --fps 2 --out frames",
    "doctor": "camseg doctor",
    "demo": "camseg demo --out demo",
}
"""A call of each command that says what most want of it."""


def _worded(message: str) -> str:
    """What typer says of a value, without the words of the library that it asks."""
    if message.startswith("Input should be a valid "):
        return "expected a whole number" if "integer" in message else "expected a number"
    return message.removeprefix("Value error, ")


class Command(TyperCommand):
    """A command whose help has a section for each group of options, those of none first."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the command line apart; what is wrong with a value is said in the words of settings."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = _worded(error.message)
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None:
                is_option = parameter.param_type_name == "option"
                group = (getattr(parameter, "rich_help_panel", None) or GENERAL) if is_option else "Arguments"
                groups.setdefault(group, []).append(row)
        for name in sorted(groups, key=lambda name: (name != "Arguments", name != GENERAL)):
            with formatter.section(name):
                formatter.write_dl(groups[name])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example, on one line whatever the width, as it is to be copied."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write(f"Example:\n  {self.epilog}\n")


class Group(TyperGroup):
    """A group whose help says in whole sentences what its commands do."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, (one.help or "").partition("\n")[0]) for name, one in self.commands.items()])
