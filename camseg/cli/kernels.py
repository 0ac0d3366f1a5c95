"""``camseg kernels``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, fields, options


@fields.command
def kernels(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Classifier run of a network with involution (med_ic).")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Image file.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Image to write.")] = Path("kernels.png"),
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Draw the kernels of involution layers as heat maps: at each pixel the sum of its kernel's weights."""
    from camseg.classify.checkpoint import load_network
    from camseg.data.images import read_image, write_image
    from camseg.measure.figures import plot_kernels
    from camseg.models.building import involution_kernels

    classifier = load_network(run, device)
    picture = read_image(image, classifier.window)
    layers = involution_kernels(classifier.model, classifier.preprocess([picture]))
    sums = [layer[0].sum(dim=1).cpu().numpy() for layer in layers]  # (groups, h, w) each
    write_image(out, plot_kernels(classifier.to_input(picture), sums))
    if json:
        console.print_json({"out": str(out), "layers": [list(maps.shape) for maps in sums]})
    else:
        console.say(f"kernels of {len(sums)} involution layers: {out}")
