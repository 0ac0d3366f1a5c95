"""Videos -> frames."""

from collections.abc import Iterator
from pathlib import Path

import cv2

from camseg.base.errors import ImageError
from camseg.base.files import find_files
from camseg.prepare.output import Picture, Preparation, PreparationInput, PreparationReport, source_name, write_pictures
from camseg.prepare.settings import FrameSettings
from camseg.runs.settings import FolderOptions

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


def prepare_frames(
    videos: Path | str,
    out: Path | str,
    settings: FrameSettings | None = None,
    options: FolderOptions | None = None,
) -> PreparationReport:
    """Write ``OUT/<video>/<frame>.png``, numbered as in the video from 0, and ``OUT/labels.csv``, without labels.

    ``videos``: a folder of videos, or one. The group is the video. Raises InputError, OutputError.
    """
    settings = settings or FrameSettings()
    found = find_files(videos, lambda path: path.suffix.lower() in SUFFIXES, f"videos ({', '.join(SUFFIXES)})")
    return write_pictures(
        Preparation(command="prepare frames", root=found.root, settings=settings, labelled=False),
        [PreparationInput(path=path, name=source_name(path, found.root, SUFFIXES)) for path in found.files],
        lambda one: _frames(one, settings),
        out,
        options=options,
        failures=found.failures,
    )


def _frames(one: PreparationInput, settings: FrameSettings) -> Iterator[Picture]:
    # By FFmpeg alone: other backends take a name with digits for a sequence of images.
    video = cv2.VideoCapture(str(one.path.resolve()), cv2.CAP_FFMPEG)
    try:
        rate, promised = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
        if not video.isOpened():
            raise ImageError(f"{one.path}: not a video that can be read, or it is damaged")
        if settings.fps is not None and not rate > 0.0:
            raise ImageError(f"{one.path}: the video does not say its frame rate; take every N-th frame instead")
        step = float(settings.every) if settings.fps is None else max(rate / settings.fps, 1.0)
        count, taken = 0, 0
        while video.grab():
            # Frame 0, and each that is the first at or behind another whole step.
            if count >= taken * step - 1e-6:
                taken += 1
                done, pixels = video.retrieve()
                if not done:
                    raise ImageError(f"{one.path}: frame {count} cannot be decoded")
                yield Picture(
                    name=f"{one.name}/{count:06d}",
                    image=cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB),
                    group=one.name,
                    source=one.name,
                    frame=count,
                )
            count += 1
    finally:
        video.release()
    # Some formats only estimate their length.
    if count < 0.9 * promised or count == 0:
        raise ImageError(f"{one.path}: it ends after {count} of {promised:.0f} frames; it may have been cut short")
