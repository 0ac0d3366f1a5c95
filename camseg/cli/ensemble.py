"""``camseg ensemble``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from camseg.cli import console, options


def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Classifier runs that train-cls wrote.")],
    out: options.Out,
    method: Annotated[
        Literal["soft", "logistic", "svm"],
        typer.Option(help="Mean of the members' probabilities; or a rule over their features, fitted on --data."),
    ] = "soft",
    weights: Annotated[
        str,
        typer.Option(
            metavar="equal|accuracy|W,W,...",
            help="What members count in means of probabilities and maps; accuracy: that of their own validation.",
        ),
    ] = "equal",
    data: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Labelled images as for train-cls: to fit and to evaluate on.")
    ] = None,
    val: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Validation images; else split off from --data.")
    ] = None,
    val_fraction: Annotated[
        float, typer.Option(help="As in train-cls, whose split it repeats with an equal --seed.")
    ] = 0.2,
    test_fraction: Annotated[
        float, typer.Option(help="Share of --data that is split off before that and not used, as in train-cls.")
    ] = 0.0,
    batch_size: options.BatchSize = 16,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Join classifiers into one run, which other commands take as any classifier; its map is their maps' mean."""
    from camseg.data.datasets import load_training_data
    from camseg.runs.loop import check_apart
    from camseg.studies.ensembles import make_ensemble
    from camseg.train.plan import load_parts

    train = held = None
    if data is not None:
        train, held, _ = load_parts(data, val=val, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    elif val is not None:
        held = load_training_data(val)
    for part in (train, held):
        if part is not None:
            check_apart(part, out)
    metrics = make_ensemble(
        runs,
        out,
        method=method,
        weights=weights if weights in ("equal", "accuracy") else options.numbers(weights),  # type: ignore[arg-type]
        train=train,
        val=held,
        device=device,
        batch_size=batch_size,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=console.progress,
        say=console.say,
    )
    if not metrics:
        console.say(f"{'would join' if dry_run else 'joined'} {len(runs)} classifiers: {out}")
        if json:
            console.print_json({"out": str(out), "members": [str(run) for run in runs]})
        return
    if not json:
        rows = [
            (one["run"], *(f"{one[key]:.3f}" for key in ("share", "accuracy", "macro_f1")))
            for one in metrics["members"]
        ]
        console.print_table(("member", "share", "accuracy", "macro-F1"), rows)
    console.finish_training(metrics, out, json)
