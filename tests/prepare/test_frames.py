"""Videos to frames: which ones, their colours, and files that are no videos."""

import cv2
import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.data.datasets import load_images
from camseg.data.images import read_image
from camseg.prepare.frames import prepare_frames
from camseg.prepare.settings import FrameSettings


def film(path, count=20, rate=10):
    """A video of plain frames, the n-th of them (200, 40, 10 n) in RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate, (32, 24))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MJPG videos")
    for number in range(count):
        writer.write(np.full((24, 32, 3), (10 * number, 40, 200), np.uint8))
    writer.release()
    return path


@pytest.fixture
def videos(tmp_path):
    film(tmp_path / "videos/line 1/a.avi")
    return tmp_path / "videos"


def numbers(folder):
    return [int(path.stem) for path in sorted(folder.iterdir())]


def test_every_frame_has_its_pixels_and_number(videos, tmp_path):
    out = tmp_path / "out"
    report = prepare_frames(videos, out)
    assert (report.images, report.failed) == (20, [])
    for number in (0, 7, 19):
        pixels = read_image(out / f"line 1/a/{number:06}.png")
        assert pixels.shape == (24, 32, 3)
        assert np.abs(pixels.astype(int) - (200, 40, 10 * number)).max() <= 4  # MJPG loses a little
    samples = load_images(out / "labels.csv").samples
    assert len(samples) == 20
    assert {(sample.group, sample.labels) for sample in samples} == {("line 1/a", None)}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"every": 6}, [0, 6, 12, 18]),
        ({"fps": 2}, [0, 5, 10, 15]),
        ({"fps": 4}, [0, 3, 5, 8, 10, 13, 15, 18]),  # the first at or behind each 2.5
        ({"fps": 30}, list(range(20))),
        ({"fps": 0.5}, [0]),
    ],
)
def test_frames_are_chosen_by_number_or_rate(videos, tmp_path, settings, expected):
    prepare_frames(videos, tmp_path / "out", FrameSettings(**settings))
    assert numbers(tmp_path / "out/line 1/a") == expected


def test_files_that_are_no_videos_fail_alone(videos, tmp_path):
    (videos / "clip_001.avi").write_bytes(b"junk" * 1000)
    (videos / "empty.mp4").touch()
    (videos / "cut.avi").write_bytes((videos / "line 1/a.avi").read_bytes()[:300])
    report = prepare_frames(videos, tmp_path / "out")
    assert (report.done, report.images) == (1, 20)
    assert [line.partition(": ")[2][:11] for line in report.failed] == ["not a video"] * 3


def test_a_video_that_ends_early_is_reported_and_its_frames_stay(videos, tmp_path, monkeypatch):
    class Short:
        def __init__(self, *_):
            self.left = 5

        def get(self, key):
            return {cv2.CAP_PROP_FPS: 0.0, cv2.CAP_PROP_FRAME_COUNT: 20.0}[key]

        def isOpened(self):
            return True

        def grab(self):
            self.left -= 1
            return self.left >= 0

        def retrieve(self):
            return True, np.zeros((4, 4, 3), np.uint8)

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Short)
    report = prepare_frames(videos, tmp_path / "out")
    assert (report.done, report.images) == (0, 5)
    assert "ends after 5 of 20 frames" in report.failed[0]
    assert len(load_images(tmp_path / "out/labels.csv").samples) == 5
    report = prepare_frames(videos, tmp_path / "rate", FrameSettings(fps=1))
    assert "does not say its frame rate" in report.failed[0]


@pytest.mark.parametrize("settings", [{"every": 0}, {"fps": 0}, {"fps": float("nan")}, {"every": 2, "fps": 1}])
def test_settings_are_checked(settings):
    with pytest.raises(InputError):
        FrameSettings(**settings)


def test_the_command(videos, tmp_path, call):
    (videos / "bad.mov").touch()
    code, _, err = call("prepare", "frames", videos, "--out", tmp_path / "out", "--every", 10)
    assert code == 1
    assert "failed:" in err
    assert "2 images of 1 inputs, 1 failed" in err
    assert call("prepare", "frames", videos, "--out", tmp_path / "other", "--every", 2, "--fps", 1)[0] == 2
    assert call("prepare", "frames", tmp_path / "nothing", "--out", tmp_path / "other")[0] == 2
