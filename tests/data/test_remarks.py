import numpy as np
import pytest
from PIL import Image as PilImage

from camseg.data.datasets import load_images
from camseg.data.images import write_image
from camseg.data.remarks import data_remarks, unreadable


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)


def test_sound_images_give_no_line(tmp_path, image):
    write_image(tmp_path / "a.png", image)
    (tmp_path / "notes.txt").touch()
    assert data_remarks(load_images(tmp_path)) == []


def test_what_is_passed_over_squeezed_or_left_of_stacks_is_said(tmp_path, image):
    frames = [PilImage.fromarray(image), PilImage.fromarray(255 - image)]
    frames[0].save(tmp_path / "stack.tif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "single.tif")
    (tmp_path / "clip.mov").touch()
    PilImage.fromarray(700 + 9 * image[..., 0].astype(np.uint16)).save(tmp_path / "twelve.png")
    dataset = load_images(tmp_path)
    passed, stacks, window = data_remarks(dataset)
    assert passed == "1 other file passed over (.mov 1)"
    assert stacks.startswith("1 of 2 files hold several pages, of which the first is read, such as ")
    assert "stack.tif with 2" in stacks
    assert window.startswith("the window full leaves these images the levels 3 to ")
    assert "--window 0,4095" in window
    assert data_remarks(dataset, "0,4095") == [passed, stacks]


def test_images_that_cannot_be_read(tmp_path, image):
    write_image(tmp_path / "a.png", image)
    (tmp_path / "b.png").touch()
    (tmp_path / "c.png").write_text("no image")
    (tmp_path / "d.csv").write_text("image\na.png\nb.png\nc.png\nmissing.png\n")
    found = unreadable(sample.path for sample in load_images(tmp_path / "d.csv").samples)
    assert {path.name: reason.partition(": ")[2][:12] for path, reason in found.items()} == {
        "b.png": "the file is ",
        "c.png": "not an image",
        "missing.png": "no such file",
    }
