"""One stage at a time over a folder of files: what the commands between ``cams`` and ``evaluate`` do."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.arrays import Cam, Image, Trimap, dequantise, quantise
from camseg.datasets import Dataset, Sample
from camseg.errors import ImageError, InputError
from camseg.folders import FolderOptions, Report, Steps, run_folder
from camseg.images import (
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
from camseg.masks import cam_to_mask, parse_threshold
from camseg.pipeline import TrimapSettings, check_choice, make_trimap
from camseg.propagation import METHODS as PROPAGATORS
from camseg.propagation import propagate
from camseg.refinement import METHODS as REFINERS
from camseg.refinement import refine_with_report
from camseg.results import Record, provenance


def propagate_folder(
    images: Dataset,
    cams: Path | str,
    out: Path | str,
    method: str,
    *,
    device: str,
    window: Window = "full",
    options: FolderOptions | None = None,
) -> Report:
    """Spread one method's maps in the folder ``cams`` into ``out/<method>/...``.

    ``window``: how 16-bit images become 8-bit, as it was for the classifier.
    """
    check_choice("propagation", method, PROPAGATORS)
    partner = _partner(images, window)
    folder = Path(out)

    def write(sample: Sample, cam: Cam, _: None) -> list[Record]:
        file = f"{method}/{sample.name}.png"
        write_cam(folder / file, propagate(partner(sample), cam, method, device=device))
        return [_file_record(sample, files={method: file}, propagation=method)]

    settings = {"methods": [method], "images": str(images.root.resolve()), "device": device, "window": window}
    return _file_folder("propagate", cams, folder, settings, read_cam, write, options)


def masks_folder(cams: Path | str, out: Path | str, threshold: str, *, options: FolderOptions | None = None) -> Report:
    """Binarise the maps in the folder ``cams`` into ``out``."""
    rule = parse_threshold(threshold)
    folder = Path(out)

    def write(sample: Sample, cam: Cam, _: None) -> list[Record]:
        mask = cam_to_mask(cam, rule)
        write_mask(folder / f"{sample.name}.png", mask)
        return [
            _file_record(
                sample, files={"mask": f"{sample.name}.png"}, threshold=str(rule), area=int(np.count_nonzero(mask))
            )
        ]

    # A threshold file may change under its name: what it says decides, not what it is called.
    settings = {"threshold": str(threshold), "rule": [rule.kind, rule.value]}
    return _file_folder("masks", cams, folder, settings, read_cam, write, options)


def trimap_folder(
    source: Path | str, out: Path | str, settings: TrimapSettings, *, options: FolderOptions | None = None
) -> Report:
    """Make trimaps of the masks, or by two thresholds of the maps, in the folder ``source``."""
    folder = Path(out)
    from_maps = settings.low is not None

    def write(sample: Sample, levels: NDArray, _: None) -> list[Record]:
        trimap = make_trimap(None, levels, settings) if from_maps else make_trimap(levels, None, settings)
        write_image(folder / f"{sample.name}.png", trimap)
        return [_file_record(sample, files={"trimap": f"{sample.name}.png"})]

    return _file_folder(
        "trimap", source, folder, asdict(settings), read_cam if from_maps else read_mask, write, options
    )


def refine_folder(
    images: Dataset,
    trimaps: Path | str,
    out: Path | str,
    method: str,
    *,
    masks: Path | str | None = None,
    save: Sequence[str] = (),
    window: Window = "full",
    options: FolderOptions | None = None,
) -> Report:
    """Refine every trimap into ``out/masks``, on request also ``alphas`` and ``foregrounds`` (RGBA).

    ``masks``: the folder of what an unusable trimap falls back to; ``window`` as in ``propagate_folder``.
    """
    check_choice("refiner", method, REFINERS)
    if masks is not None and not Path(masks).is_dir():
        raise InputError(f"expected the folder of the masks to fall back to; {masks} is none")
    partner = _partner(images, window)
    folder = Path(out)

    def write(sample: Sample, trimap: Trimap, _: None) -> list[Record]:
        image = partner(sample)
        mask = None if masks is None else read_mask(Path(masks, f"{sample.name}.png"))
        refined = refine_with_report(image, trimap, method, mask, colors="foregrounds" in save)
        alpha = dequantise(quantise(refined.alpha))
        files = {"mask": f"masks/{sample.name}.png"}
        write_mask(folder / files["mask"], alpha > 0.5)
        if "alphas" in save:
            files["alpha"] = f"alphas/{sample.name}.png"
            write_cam(folder / files["alpha"], alpha)
        if refined.foreground is not None:
            files["foreground"] = f"foregrounds/{sample.name}.png"
            write_image(folder / files["foreground"], np.dstack([quantise(refined.foreground), quantise(alpha)]))
        area = int(np.count_nonzero(alpha > 0.5))
        return [_file_record(sample, files=files, refiner=method, fallback=refined.fallback, area=area)]

    settings = {
        "refiner": method,
        "images": str(images.root.resolve()),
        "masks": None if masks is None else str(Path(masks).resolve()),
        "masks_run": None if masks is None else provenance(masks),
        "save": sorted(save),
        "window": window,
    }
    return _file_folder("refine", trimaps, folder, settings, read_trimap, write, options)


def _file_folder(
    command: str,
    source: Path | str,
    out: Path,
    settings: Record,
    read: Callable[[Path], Any],
    write: Callable[[Sample, Any, None], list[Record]],
    options: FolderOptions | None,
) -> Report:
    """The folder loop over the files below ``source``, without a network."""
    found = find_images(source)
    samples = tuple(Sample(path=path, name=relative_name(path, found.root)) for path in found.files)
    files = Dataset(root=found.root, samples=samples, classes=(), multi_label=False, failures=found.failures)
    steps = Steps(read=lambda sample: read(sample.path), infer=lambda batch, _: [None] * len(batch), write=write)
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
