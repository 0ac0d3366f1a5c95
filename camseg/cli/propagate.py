"""``camseg propagate``."""

from pathlib import Path
from typing import Annotated

import typer

from camseg.cli import console, options


def propagate(
    images: options.ImagesArgument,
    cams: Annotated[Path, typer.Option(help="Folder of one method's maps.")],
    out: options.Out,
    method: Annotated[str, typer.Option(help="par, crf, guided, superpixels or random-walk.")] = "par",
    arg: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting of the method, such as rounds=5 (repeats).")
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option("--classifier", "-c", metavar="RUN", help="For random-walk: whose features it walks on."),
    ] = None,
    window: options.Window = "full",
    device: options.Device = "auto",
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Spread maps along the images' own edges: OUT/<method>/<path>.png."""
    from camseg.classify.classifier import find_device, load_classifier
    from camseg.data.datasets import load_images
    from camseg.label.stages import propagate_folder
    from camseg.runs.output import map_root

    folder = console.folder_options(workers, overwrite, dry_run)
    settings = options.propagation_settings(method, arg)
    data, maps, where = load_images(images), map_root(cams), str(find_device(device))
    run = None if classifier is None else load_classifier(classifier, where)
    report = propagate_folder(
        data, maps, out, method, device=where, settings=settings, classifier=run, window=window, options=folder
    )
    console.finish(report, out, json, dry_run)
