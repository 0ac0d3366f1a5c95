import json

import cv2
import numpy as np
import pytest

from camseg.data.images import read_image, write_cam, write_image, write_mask
from camseg.runs.record import SCHEMA_VERSION, Record, to_line


def make_output(root, names, size=(32, 40), **settings):
    """Images of bright squares, and an output folder as ``label`` writes it: masks, maps, a manifest; masks of later
    names are worse."""
    random = np.random.default_rng(0)
    lines = []
    for place, name in enumerate(names):
        image = random.integers(60, 120, (*size, 3)).astype(np.uint8)
        truth = np.zeros(size, bool)
        truth[8:20, 10:26] = True
        image[truth] = (230, 200, 40)
        mask = np.roll(truth, place, axis=1)
        cam = np.clip(mask * 0.6 + random.random(size) * 0.3, 0, 1).astype(np.float32)
        write_image(root / f"images/{name}.png", image)
        write_mask(root / f"truth/{name}.png", truth)
        write_mask(root / f"out/masks/{name}.png", mask)
        write_cam(root / f"out/cams/{name}.png", cam)
        record = Record(
            input=f"{name}.png",
            name=name,
            class_name="cat",
            files={"mask": f"masks/{name}.png", "cam": f"cams/{name}.png"},
            score=0.9,
            threshold="max:0.7",
            area=int(mask.sum()),
            quality=round(1 - place / (len(names) + 1), 3),
            quality_reasons=("a low class score",) if place % 2 else (),
            agreements={"levels": round(0.9 - 0.5 * place / len(names), 3)},
        )
        lines.append(to_line(record))
    (root / "out/manifest.jsonl").write_text("".join(lines))
    run = {
        "schema_version": SCHEMA_VERSION,
        "command": "label",
        "settings": {"masks": {"threshold": "max:0.7"}, **settings},
        "identity": {"inputs": str(root / "images"), "cams.classifier": "0" * 64},
        "versions": {"camseg": "0"},
        "seconds": {"total": 1.0},
    }
    (root / "out/run.json").write_text(json.dumps(run))
    return root / "out"


@pytest.fixture
def make_out(tmp_path):
    return lambda *names, **more: make_output(tmp_path, names or ("a", "b", "sub/c", "d", "e", "f"), **more)


@pytest.fixture
def cut_photo():
    """Puts a photo at an image's place that is whole as far as its header."""

    def cut(path):
        height, width = read_image(path).shape[:2]
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        _, photo = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 100])
        path.write_bytes(photo.tobytes()[: len(photo) // 2])

    return cut
