"""One stage at a time over a folder of files: what the commands between ``cams`` and ``evaluate`` do."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam, Image, Trimap, dequantise, quantise
from camseg.base.errors import ImageError, InputError
from camseg.base.files import sha256
from camseg.base.workers import Call, worker_processes
from camseg.classify.classifier import AnyClassifier
from camseg.data.datasets import Dataset, Sample
from camseg.data.images import (
    Window,
    check_window,
    find_images,
    read_cam,
    read_image,
    read_mask,
    read_trimap,
    relative_name,
    write_cam,
    write_image,
    write_mask,
)
from camseg.label.chain import call_refiner, classifier_features, make_trimap, needs_features
from camseg.label.settings import TrimapSettings, check_choice
from camseg.masks.cleaning import PostprocessingSettings, postprocess
from camseg.masks.threshold import cam_to_mask, parse_threshold
from camseg.propagation.propagate import METHODS as PROPAGATORS
from camseg.propagation.propagate import check_settings, propagate
from camseg.propagation.settings import Settings as PropagationSettings
from camseg.refinement.refine import open_network
from camseg.refinement.trimaps import unusable
from camseg.runs.loop import FolderOptions, Report, Steps, run_folder
from camseg.runs.output import Record, provenance


def propagate_folder(
    images: Dataset,
    cams: Path | str,
    out: Path | str,
    method: str,
    *,
    device: str,
    settings: PropagationSettings | None = None,
    classifier: AnyClassifier | None = None,
    window: Window = "full",
    options: FolderOptions | None = None,
) -> Report:
    """Spread one method's maps in the folder ``cams`` into ``out/<method>/...``.

    ``settings``: the method's own; ``classifier``: for methods that walk over its features; ``window``: how 16-bit
    images become 8-bit, as it was for the classifier.
    """
    check_choice("propagation", method, PROPAGATORS)
    if settings is not None:
        check_settings(method, settings)
    if needs_features(method) and classifier is None:
        raise InputError(f"{method} walks over a classifier's features; name it with --classifier RUN")
    partner = _partner(images, window)
    folder = Path(out)

    def features(samples: Sequence[Sample], _: Sequence[Cam | None]) -> list[NDArray[np.float32] | None]:
        if classifier is None or not needs_features(method):
            return [None] * len(samples)
        found: list[NDArray[np.float32] | None] = []
        for sample in samples:
            try:
                image = partner(sample)
            except ImageError:  # which ``write`` meets again, and reports
                found.append(None)
            else:
                found.append(classifier_features(classifier, classifier.members[0].to_input(image), image.shape[:2]))
        return found

    def write(sample: Sample, cam: Cam, guide: NDArray[np.float32] | None) -> list[Record]:
        file = f"{method}/{sample.name}.png"
        spread = propagate(partner(sample), cam, method, settings=settings, features=guide, device=device)
        write_cam(folder / file, spread)
        return [_file_record(sample, files={method: file}, propagation=method)]

    decisive = {
        "methods": [method],
        "propagation_settings": None if settings is None else asdict(settings),
        "classifier": None if classifier is None or not needs_features(method) else classifier.fingerprint(),
        "images": str(images.root.resolve()),
        "device": device,
        "window": window,
    }
    return _file_folder("propagate", cams, folder, decisive, read_cam, write, options, infer=features)


def masks_folder(
    cams: Path | str,
    out: Path | str,
    threshold: str,
    postprocessing: PostprocessingSettings | None = None,
    *,
    options: FolderOptions | None = None,
) -> Report:
    """Binarise the maps in the folder ``cams`` into ``out``."""
    rule = parse_threshold(threshold)
    folder = Path(out)
    postprocessing = postprocessing or PostprocessingSettings()

    def write(sample: Sample, cam: Cam, _: None) -> list[Record]:
        mask = postprocess(cam_to_mask(cam, rule), postprocessing)
        write_mask(folder / f"{sample.name}.png", mask)
        return [
            _file_record(
                sample, files={"mask": f"{sample.name}.png"}, threshold=str(rule), area=int(np.count_nonzero(mask))
            )
        ]

    # A threshold file may change under its name: what it says decides, not what it is called.
    settings = {
        "threshold": str(threshold),
        "rule": [rule.kind, rule.value],
        "postprocessing": asdict(postprocessing),
    }
    return _file_folder("masks", cams, folder, settings, read_cam, write, options)


def trimap_folder(
    source: Path | str,
    out: Path | str,
    settings: TrimapSettings,
    *,
    cams: Path | str | None = None,
    options: FolderOptions | None = None,
) -> Report:
    """Make trimaps of the masks, or by two thresholds of the maps, in the folder ``source``.

    ``cams``: the folder of the maps that the masks were made of, for what those are sure of.
    """
    folder = Path(out)
    from_maps = settings.low is not None
    if cams is not None and not Path(cams).is_dir():
        raise InputError(f"expected the folder of the masks' maps; {cams} is none")

    def write(sample: Sample, levels: NDArray, _: None) -> list[Record]:
        if from_maps:
            trimap = make_trimap(None, levels, settings)
        else:
            cam = None if cams is None else read_cam(Path(cams, f"{sample.name}.png"))
            trimap = make_trimap(levels, cam, settings)
        write_image(folder / f"{sample.name}.png", trimap)
        return [_file_record(sample, files={"trimap": f"{sample.name}.png"}, fallback=unusable(trimap))]

    decisive = {
        **asdict(settings),
        "cams": None if cams is None else str(Path(cams).resolve()),
        "cams_run": None if cams is None else provenance(cams),
    }
    return _file_folder("trimap", source, folder, decisive, read_cam if from_maps else read_mask, write, options)


def refine_folder(
    images: Dataset,
    trimaps: Path | str,
    out: Path | str,
    method: str,
    *,
    masks: Path | str | None = None,
    weights: str | None = None,
    device: str = "cpu",
    postprocessing: PostprocessingSettings | None = None,
    save: Sequence[str] = (),
    window: Window = "full",
    options: FolderOptions | None = None,
) -> Report:
    """Refine every trimap into ``out/masks``, on request also ``alphas`` and ``foregrounds`` (RGBA).

    ``masks``: the folder of what an unusable trimap or a worse mask falls back to; ``weights`` and ``device``: for a
    trained network; ``window`` as in ``propagate_folder``.
    """
    open_network(method, weights, device)
    if masks is not None and not Path(masks).is_dir():
        raise InputError(f"expected the folder of the masks to fall back to; {masks} is none")
    partner = _partner(images, window)
    folder = Path(out)
    postprocessing = postprocessing or PostprocessingSettings()

    def write(sample: Sample, trimap: Trimap, _: None, call: Call) -> list[Record]:
        mask = None if masks is None else read_mask(Path(masks, f"{sample.name}.png"))
        colors = "foregrounds" in save
        refined = call_refiner(
            call, partner(sample), trimap, method, mask, colors=colors, weights=weights, device=device
        )
        alpha = dequantise(quantise(refined.alpha))
        final = postprocess(alpha > 0.5, postprocessing)
        files = {"mask": f"masks/{sample.name}.png"}
        write_mask(folder / files["mask"], final)
        if "alphas" in save:
            files["alpha"] = f"alphas/{sample.name}.png"
            write_cam(folder / files["alpha"], alpha)
        if refined.foreground is not None:
            files["foreground"] = f"foregrounds/{sample.name}.png"
            write_image(folder / files["foreground"], np.dstack([quantise(refined.foreground), quantise(alpha)]))
        area = int(np.count_nonzero(final))
        refiner = refined.method or method
        return [_file_record(sample, files=files, refiner=refiner, fallback=refined.fallback, area=area)]

    settings = {
        "refiner": method,
        "weights": None if weights is None else sha256(weights),
        "device": device if weights is not None else "cpu",
        "postprocessing": asdict(postprocessing),
        "images": str(images.root.resolve()),
        "masks": None if masks is None else str(Path(masks).resolve()),
        "masks_run": None if masks is None else provenance(masks),
        "save": sorted(save),
        "window": window,
    }
    with worker_processes() as call:
        return _file_folder("refine", trimaps, folder, settings, read_trimap, partial(write, call=call), options)


def _file_folder(
    command: str,
    source: Path | str,
    out: Path,
    settings: Record,
    read: Callable[[Path], Any],
    write: Callable[[Sample, Any, Any], list[Record]],
    options: FolderOptions | None,
    infer: Callable[[Sequence[Sample], Sequence[Any]], Sequence[Any]] = lambda batch, _: [None] * len(batch),
) -> Report:
    """The folder loop over the files below ``source``; ``infer`` as in ``Steps``."""
    found = find_images(source)
    samples = tuple(Sample(path=path, name=relative_name(path, found.root)) for path in found.files)
    files = Dataset(root=found.root, samples=samples, classes=(), multi_label=False, failures=found.failures)
    steps = Steps(read=lambda sample: read(sample.path), infer=infer, write=write)
    # A folder of maps may be written again under its name: with which settings decides too.
    decisive = {**settings, "source": str(Path(source).resolve()), "source_run": provenance(source)}
    return run_folder(command, files, out, decisive, steps, batch_size=16, options=options)


def _partner(images: Dataset, window: Window) -> Callable[[Sample], Image]:
    """Find the image of a map or trimap: of the same name, or of its name without the class folder in front."""
    check_window(window)
    paths = {sample.name: sample.path for sample in images.samples}

    def image_of(sample: Sample) -> Image:
        name = sample.name if sample.name in paths else sample.name.partition("/")[2]
        if name not in paths:
            raise ImageError(f"{sample.path}: no image {sample.name} in {images.root}")
        return read_image(paths[name], window)

    return image_of


def _file_record(
    sample: Sample,
    *,
    files: dict[str, str],
    propagation: str | None = None,
    threshold: str | None = None,
    refiner: str | None = None,
    fallback: str | None = None,
    area: int | None = None,
) -> Record:
    return {
        "input": sample.input,
        "name": sample.name,
        "class": None,
        "files": files,
        "propagation": propagation,
        "threshold": threshold,
        "refiner": refiner,
        "fallback": fallback,
        "area": area,
        "status": "ok",
        "error": None,
    }
