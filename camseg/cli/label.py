"""``camseg label``."""

from typing import Annotated, Literal

import typer

from camseg.cli import console, options


def label(
    images: options.ImagesArgument,
    classifier: options.ClassifierRun,
    out: options.Out,
    method: Annotated[str, typer.Option(help="CAM method, as in camseg cams.")] = "layercam",
    target: options.Target = None,
    negative: options.Negative = None,
    score: Annotated[
        Literal["auto", "class", "margin"],
        typer.Option(help="As in camseg cams; auto: margin if there is a negative class."),
    ] = "auto",
    layer: options.Layers = ["stages"],  # noqa: B006 (typer copies it)
    output_stride: options.OutputStride = None,
    scales: options.Scales = "auto",
    flip: Annotated[bool, typer.Option(help="Also look at mirrored images and average.")] = True,
    precision: options.Precision = "float32",
    propagation: Annotated[str, typer.Option(help="par, crf, guided, superpixels, random-walk or none.")] = "par",
    propagation_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A setting of the propagation, such as rounds=5 (repeats)."),
    ] = None,
    threshold: Annotated[str, typer.Option(help="As in camseg masks.")] = "max:0.7",
    refiner: Annotated[
        str, typer.Option(help="auto, none, closed-form, grabcut, random-walker, knn, lkm, lbdm, rw or fba.")
    ] = "auto",
    weights: options.RefinerWeights = None,
    trimap_recipe: options.TrimapRecipe = "fitted",
    open: options.Open = "0",
    close: options.Close = "0",
    dilate: options.Dilate = "20%",
    erode: options.Erode = "20%",
    sure: options.Sure = "max:0.85",
    low: options.Low = None,
    high: options.High = None,
    smooth: options.Smooth = "0",
    fill_holes: options.FillHoles = "none",
    min_area: options.MinArea = "0",
    keep: options.Keep = None,
    save: Annotated[
        list[str] | None, typer.Option(help="Also write cams, trimaps, alphas or overlays (repeats).")
    ] = None,
    batch_size: options.BatchSize = 16,
    device: options.Device = "auto",
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Label a folder: the whole chain from image to mask, OUT/masks/<path>.png; continues where it was stopped."""
    from camseg.label.folder import label_folder
    from camseg.label.settings import LabelSettings, TrimapSettings
    from camseg.masks.cleaning import PostprocessingSettings

    run, data = console.open_run(classifier, images, device, negative, output_stride)
    settings = LabelSettings(
        scales=options.scales(scales),
        flip=flip,
        method=method,
        score=score,
        layers=tuple(layer),
        precision=precision,
        propagation=propagation,
        threshold=threshold,
        propagation_settings=options.propagation_settings(propagation, propagation_arg),
        refiner=refiner,
        refiner_weights=None if weights is None else str(weights),
        postprocessing=PostprocessingSettings(smooth=smooth, fill_holes=fill_holes, min_area=min_area, keep=keep),
        trimap=TrimapSettings(
            recipe=trimap_recipe,
            open=open,
            close=close,
            dilate=dilate,
            erode=erode,
            sure=options.optional(sure),
            low=low,
            high=high,
        ),
    )
    report = label_folder(
        data,
        run,
        out,
        settings,
        targets=target or (),
        save=save or (),
        batch_size=batch_size,
        options=console.folder_options(workers, overwrite, dry_run),
    )
    console.finish(report, out, json, dry_run)
