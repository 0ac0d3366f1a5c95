"""Damaged files of every kind: each ends in an array or object, or in a CamsegError, in bounded time and memory.

The short test takes a few inputs of each kind in this process. The slow one starts this file as a script, whose crash,
endless loop or hunger for memory is noticed from outside; the input that did it is kept. Called by hand,
``python tests/test_fuzz.py FOLDER KIND SEED SECONDS`` looks for longer.
"""

import json
import re
import resource
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image as PilImage

from camseg.base.errors import CamsegError
from camseg.data.datasets import load_images
from camseg.data.images import (
    read_cam,
    read_image,
    read_levels,
    read_mask,
    read_mask_and_void,
    read_trimap,
    squeezed,
)
from camseg.data.mask_settings import parse_mask_classes
from camseg.data.opening import count_frames
from camseg.masks.settings import parse_threshold
from camseg.runs.manifest import read_manifest

Check = Callable[[Path], object]
Mutation = Callable[[bytes, Random], bytes]

SECONDS = 20.0
"""An input that takes longer hangs."""
BYTES = 2 << 30
"""More memory than the readers of any input here may take."""


# Seeds: small files of every kind.


def pictures(folder: Path) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (12, 17, 4)).astype(np.uint8)
    mask = np.zeros((12, 17), np.uint8)
    mask[3:9, 4:12] = 255
    exif = PilImage.Exif()
    exif[0x0112] = 6
    numbers = PilImage.fromarray(mask // 17)
    numbers.putpalette(random.integers(0, 256, 768).astype(np.uint8).tobytes())
    shown = {mode: PilImage.fromarray(noise).convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")}
    for mode, suffixes in {
        "1": "png tif pbm bmp xbm msp",
        "L": "png jpg tif gif bmp pgm tga jp2 sgi",
        "LA": "png tif tga",
        "P": "png gif tif bmp pcx tga",
        "RGB": "png jpg tif webp bmp ppm tga jp2 avif pcx sgi qoi dds",
        "RGBA": "png tif webp tga jp2 qoi sgi",
        "CMYK": "jpg tif",
    }.items():
        for suffix in suffixes.split():
            shown[mode].save(folder / f"{mode}.{suffix}")
    shown["RGB"].save(folder / "turned.jpg", exif=exif)
    shown["RGB"].save(folder / "turned.png", exif=exif)
    shown["RGB"].save(folder / "frames.gif", save_all=True, append_images=[shown["RGB"].rotate(90, expand=True)])
    shown["L"].save(folder / "key.png", transparency=7)
    numbers.save(folder / "numbers.png", transparency=0)
    for suffix in ("png", "jpg", "tif", "webp"):
        PilImage.fromarray(mask).save(folder / f"mask.{suffix}")
    for name, suffix, pixels in (
        ("grey16", ".png", noise[..., 0].astype(np.uint16) * 257),
        ("rgb16", ".png", noise[..., :3].astype(np.uint16) * 257),
        ("rgba16", ".png", noise.astype(np.uint16) * 257),
        ("rgb16", ".ppm", noise[..., :3].astype(np.uint16) * 257),
        ("lzw16", ".tif", noise[..., :3].astype(np.uint16) * 257),
        ("float", ".tif", noise[..., 0].astype(np.float32) / 255),
    ):
        (folder / f"{name}{suffix}").write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
    deep = noise.astype(np.uint16) * 257
    planes = np.ascontiguousarray(np.moveaxis(deep[..., :3], -1, 0))
    write = tifffile.imwrite
    write(folder / "white.tif", deep[..., 0], photometric="miniswhite", extratags=[(274, 3, 1, 6, True)])
    write(folder / "big.tif", deep[..., 0], bigtiff=True, byteorder=">")
    write(folder / "planes.tif", planes, photometric="rgb", planarconfig="separate", compression="zlib")
    write(folder / "tiled.tif", deep, photometric="rgb", extrasamples=[1], tile=(16, 16), compression="zlib")
    write(folder / "stack.tif", np.stack([deep[..., 0]] * 3), photometric="minisblack", rowsperstrip=4)
    write(folder / "imagej.tif", np.stack([deep[..., 0]] * 3), imagej=True)
    write(folder / "float64.tif", noise[..., :3] / 255.0, photometric="rgb", predictor=False)
    write(folder / "signed.tif", noise[..., 0].astype(np.int16), photometric="minisblack")
    (folder / "plain.ppm").write_text("P3 3 2 1000\n" + " ".join(map(str, range(0, 900, 50))))
    (folder / "float.pfm").write_bytes(b"Pf\n4 3\n-1.0\n" + noise.tobytes()[:48])
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 12, 17, 8, 3)
    (folder / "layers.psd").write_bytes(head + bytes(12) + b"\0\0" + noise[..., :3].tobytes())
    (folder / "x.xpm").write_text(
        '/* XPM */\nstatic char *x[] = {\n"2 2 2 1",\n"a c #000000",\n"b c #ffffff",\n"ab",\n"ba"\n};\n'
    )


def tables(folder: Path) -> None:
    (folder / "labels.csv").write_text('image,label,group\na.png,cat,1\n"b,c.png",cat;dog,\n../d.png,,2\n')
    (folder / "classes.csv").write_text("name,value\nrust,1\nvoid,255\n")
    (folder / "classes.json").write_text('{"rust": "#FF0000", "paint": "#00FF00"}')
    (folder / "threshold.json").write_text(json.dumps({"threshold": 0.5, "level": 127, "name": "val", "masks": 3}))
    line = {"schema_version": 2, "input": "a.png", "name": "a", "class": "cat", "files": {"mask": "masks/a.png"}}
    (folder / "manifest.jsonl").write_text((json.dumps(line) + "\n") * 3)


def volumes(folder: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(np.int16)
    for name in ("a.nii", "b.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / name)


def scans(folder: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    for name, kind, frames in (("a.dcm", "MONOCHROME1", 1), ("b.dcm", "RGB", 1), ("c.dcm", "MONOCHROME2", 2)):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        data.PatientID, data.PatientName, data.PhotometricInterpretation = "p", "n", kind
        data.SamplesPerPixel, data.Rows, data.Columns = 3 if kind == "RGB" else 1, 4, 6
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
        data.PlanarConfiguration, data.NumberOfFrames = 0, frames
        data.WindowCenter, data.WindowWidth, data.RescaleSlope, data.RescaleIntercept = 100, 50, 1, 0
        data.PixelData = bytes(range(24)) * 3 * frames
        data["PixelData"].VR = "OB"
        data.save_as(folder / name, enforce_file_format=True)


def runs(folder: Path) -> None:
    from camseg.classify.classifier import Classifier

    classifier = Classifier.create("test_resnet", classes=["cat", "dog"], image_size=32)
    classifier.save(folder)
    for path in folder.iterdir():
        if path.name not in ("classifier.json", "model.safetensors"):
            path.unlink()


# Readers: what is called with a damaged file, and what it must give.


def check_picture(path: Path) -> None:
    image = attempt(lambda: read_image(path))
    for window in ("percentile", "10,200"):
        other = attempt(lambda window=window: read_image(path, window))
        assert other is None or (other.dtype == np.uint8 and other.shape[2:] == (3,) and other.size)
        assert image is None or other is None or other.shape == image.shape
    for read, dtype in (
        (read_mask, np.bool_),
        (read_levels, np.uint8),
        (read_cam, np.float32),
        (read_trimap, np.uint8),
    ):
        found = attempt(lambda read=read: read(path))
        assert found is None or (found.dtype == dtype and found.ndim == 2 and found.size)
        assert found is None or image is None or found.shape == image.shape[:2]
    for chosen, classes in (("15", None), ("any", None), ("dog", "voc"), ("rust", {"rust": "#FF0000"})):
        attempt(lambda chosen=chosen, classes=classes: read_mask(path, chosen, classes))
    found = attempt(lambda: read_mask_and_void(path))
    assert found is None or not found.void.any()
    frames = attempt(lambda: count_frames(path))
    if frames is not None and frames > 1:
        attempt(lambda: read_image(path, page=1))
    squeezed([path])


def check_table(path: Path) -> None:
    for read in (load_images, parse_mask_classes, parse_threshold):
        attempt(lambda read=read: read(path))
    attempt(lambda: read_manifest(path.parent))


def check_volume(path: Path) -> None:
    from camseg.prepare.slices import prepare_slices

    prepared(path, prepare_slices)


def check_scan(path: Path) -> None:
    from camseg.prepare.dicom import prepare_dicom

    prepared(path, prepare_dicom)


def check_run(path: Path) -> None:
    from camseg.classify.checkpoint import load_classifier

    attempt(lambda: load_classifier(path.parent))


def prepared(path: Path, prepare: Callable) -> None:
    from camseg.runs.settings import FolderOptions

    options = FolderOptions(workers=1, overwrite=True)
    report = attempt(lambda: prepare(path, path.parent.parent / "out", options=options))
    assert report is None or report.done + len(report.failed) == 1
    assert report is None or all("\n" not in line for line in report.failed)


def attempt(read: Callable[[], Any]) -> Any:
    """What a reader gives, None where it refuses."""
    try:
        return read()
    except CamsegError as error:
        refusal = str(error)
    assert refusal
    assert "\n" not in refusal, refusal
    return None


KINDS: dict[str, tuple[Callable[[Path], None], Check]] = {
    "pictures": (pictures, check_picture),
    "tables": (tables, check_table),
    "volumes": (volumes, check_volume),
    "scans": (scans, check_scan),
    "runs": (runs, check_run),
}


# Mutations.


def flip(data: bytes, random: Random) -> bytes:
    """Bytes changed, half of the time at the file's head, which decides more than its pixels."""
    changed = bytearray(data)
    reach = len(data) if random.random() < 0.5 else min(len(data), 200)
    for _ in range(random.randint(1, 5)):
        place = random.randrange(max(reach, 1))
        changed[place : place + 1] = bytes([random.randrange(256)])
    return bytes(changed)


def number(data: bytes, random: Random) -> bytes:
    """A number of 1 to 8 bytes in either order that is small, or as large as can be."""
    form, order = random.choice("BHIQ"), random.choice("<>")
    value = random.choice([0, 1, 2, 7, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
    place = random.randrange(max(1, min(len(data), 400)))
    changed = struct.pack(order + form, value % 2 ** (8 * struct.calcsize(form)))
    return data[:place] + changed + data[place + len(changed) :]


def cut(data: bytes, random: Random) -> bytes:
    """The file's beginning."""
    return data[: random.randint(0, len(data))]


def splice(data: bytes, random: Random) -> bytes:
    """A part of the file put in elsewhere."""
    first, second, third = sorted(random.randint(0, len(data)) for _ in range(3))
    return data[:first] + data[second:third] + data[first:]


def tags(data: bytes, random: Random) -> bytes:
    """Tags of a TIFF changed: their number, type, count or value."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    start = struct.unpack_from(order + "I", data, 4)[0] if order and len(data) >= 8 else 0
    if order is None or not 8 <= start <= len(data) - 2:
        return flip(data, random)
    (count,) = struct.unpack_from(order + "H", data, start)
    changed = bytearray(data)
    common = [0, 1, 2, 3, 4, 5, 8, 16, 32, 64, 255, 258, 259, 262, 274, 277, 284, 338, 339, 65535, 2**31, 2**32 - 1]
    for _ in range(random.randint(1, 2)):
        place = start + 2 + 12 * random.randrange(max(count, 1))
        field, form = random.choice([(0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H")])
        if place + 12 <= len(data):
            value = random.choice(common) % (2**16 if form == "H" else 2**32)
            struct.pack_into(order + form, changed, place + field, value)
    return bytes(changed)


ODD = [*b'-1 1e400 NaN null true [] {} 0.5 , ; : " \xff \0 \n'.split(b" "), b"", b"[" * 2000, b"9" * 5000]


def words(data: bytes, random: Random) -> bytes:
    """A piece of text replaced by another, or by what nobody expects."""
    pieces = re.split(rb'([,:;"\n]+)', data)
    place = random.randrange(len(pieces))
    pieces[place] = random.choice(ODD if random.random() < 0.7 else pieces)
    return b"".join(pieces)


MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "pictures": (flip, number, cut, splice, tags, tags),
    "tables": (flip, cut, splice, words, words, words),
    "volumes": (flip, number, cut, splice),
    "scans": (flip, number, cut, splice),
    "runs": (flip, cut, splice, words, number),
}


def damaged(kind: str, folder: Path, seed: int) -> Iterator[Callable[[], object]]:
    """Endless calls; before each is given, a damaged file is written into ``folder``, which the call reads."""
    seeds, place = folder / "seeds" / kind, folder / kind
    for one in (seeds, place):
        one.mkdir(parents=True, exist_ok=True)
    make, check = KINDS[kind]
    make(seeds)
    whole = {path.name: path.read_bytes() for path in sorted(seeds.iterdir())}
    random = Random(f"{kind} {seed}")
    while True:
        name = random.choice(list(whole))
        data = whole[name]
        for _ in range(random.randint(1, 3)):
            data = random.choice(MUTATIONS[kind])(data, random)
        if kind == "runs":  # one file is damaged beside another that is whole
            for other, content in whole.items():
                (place / other).write_bytes(content)
        (place / name).write_bytes(data)
        yield lambda name=name: check(place / name)


def sound(kind: str, folder: Path) -> None:
    """Every seed is read: what is refused is refused for its damage."""
    make, check = KINDS[kind]
    place = folder / "sound" / kind
    place.mkdir(parents=True)
    make(place)
    for path in sorted(place.iterdir()):
        check(path)
        if kind == "pictures":
            assert read_image(path, "percentile").size


@pytest.mark.filterwarnings("ignore")  # decoders warn of what they meet
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(tmp_path, kind):
    sound(kind, tmp_path)
    calls = damaged(kind, tmp_path, seed=0)
    for _ in range({"pictures": 250, "tables": 200, "volumes": 40, "scans": 60, "runs": 15}[kind]):
        next(calls)()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files(tmp_path, kind):
    seconds = {"pictures": 60, "tables": 15, "volumes": 15, "scans": 15, "runs": 15}[kind]
    found = watch(tmp_path, kind, seed=int(time.time()), seconds=seconds)
    assert found is None, found


def watch(folder: Path, kind: str, seed: int, seconds: float) -> str | None:
    """Run ``hunt`` in a process of its own; what went wrong, None for nothing."""
    command = [sys.executable, __file__, str(folder), kind, str(seed), str(seconds)]
    with open(folder / f"{kind}.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    beat = folder / f"{kind}.beat"
    start = last = time.monotonic()
    stamp = None
    while process.poll() is None:
        time.sleep(0.5)
        now = beat.stat().st_mtime_ns if beat.exists() else None
        if now != stamp:
            stamp, last = now, time.monotonic()
        # Starting imports torch.
        if time.monotonic() - last > SECONDS + (60 if stamp is None else 0):
            process.kill()
            process.wait()
            return f"{kind}: an input takes more than {SECONDS:g} s; it lies in {folder / kind} (seed {seed})"
    if process.returncode:
        log_text = (folder / f"{kind}.log").read_text(errors="replace")[-3000:]
        return f"{kind}: ended with {process.returncode} (seed {seed}, input in {folder / kind}):\n{log_text}"
    print(f"{kind}: {beat.read_text()} inputs in {time.monotonic() - start:.0f} s")
    return None


def hunt(folder: Path, kind: str, seed: int, seconds: float) -> None:
    """Read damaged files until the time is over; ends with an error at the first that is neither read nor refused."""
    warnings.simplefilter("ignore")
    calls = damaged(kind, folder, seed)
    next(calls)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        call = next(calls)
        count += 1
        (folder / f"{kind}.beat").write_text(str(count))
        call()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        assert peak - before < BYTES, f"{(peak - before) >> 20} MiB for one input"


if __name__ == "__main__":
    place, which, start_seed, length = sys.argv[1:]
    hunt(Path(place), which, int(start_seed), float(length))
