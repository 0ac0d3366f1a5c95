"""``camseg cams``."""

from typing import Annotated, Literal

import typer

from camseg.cli import console, options


def cams(
    images: options.ImagesArgument,
    classifier: options.ClassifierRun,
    out: options.Out,
    method: Annotated[
        list[str],
        typer.Option(
            help="gradcam, hirescam, gradcam-elementwise, gradcam++, xgradcam, layercam, eigencam, eigengradcam, "
            "smoothgradcam++, scorecam, ablationcam, saliency, integrated-gradients, occlusion (repeats), or all of "
            "these; with grad-cam installed also finercam, shapleycam, kpcacam, fem, segeigencam, refinecam, "
            "fullgrad, sess."
        ),
    ] = ["layercam"],  # noqa: B006 (typer copies it)
    target: options.Target = None,
    negative: options.Negative = None,
    score: Annotated[
        Literal["class", "margin"], typer.Option(help="The class's score, or its margin over the best negative class.")
    ] = "class",
    layer: options.Layers = ["auto"],  # noqa: B006 (typer copies it)
    output_stride: options.OutputStride = None,
    scales: options.Scales = "1",
    flip: Annotated[bool, typer.Option("--flip", help="Also look at mirrored images and average.")] = False,
    score_channels: Annotated[
        int | None,
        typer.Option(
            min=1, help="Channels that scorecam tries, those that vary most; default: all.", show_default=False
        ),
    ] = None,
    precision: options.Precision = "float32",
    raw: Annotated[bool, typer.Option("--raw", help="Unnormalised maps as float32 TIFF.")] = False,
    batch_size: options.BatchSize = 16,
    device: options.Device = "auto",
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Write class activation maps of images: OUT/<method>/<path>.png."""
    from camseg.cams.extract import CamSettings
    from camseg.label.folder import cams_folder

    run, data = console.open_run(classifier, images, device, negative, output_stride)
    settings = CamSettings(
        methods=tuple(method),
        scales=options.scales(scales),
        flip=flip,
        score=score,
        layers=tuple(layer),
        score_channels=score_channels,
        precision=precision,
        raw=raw,
    )
    folder = console.folder_options(workers, overwrite, dry_run)
    report = cams_folder(data, run, out, settings, targets=target or (), batch_size=batch_size, options=folder)
    console.finish(report, out, json, dry_run)
