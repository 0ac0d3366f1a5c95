"""Folders of masks, as any editor writes them: one file for each image, or one for each class and image."""

from pathlib import Path, PurePosixPath

from camseg.data.images import find_images, read_mask_and_void, relative_name
from camseg.exchange.annotation import AnnotatedImage
from camseg.exchange.incoming import Frame, Incoming, Shapes
from camseg.exchange.settings import ImportSettings

ONLY = ""
"""Stands for the class of an image's only mask, where nothing names one."""


def import_png(file: Path, settings: ImportSettings) -> list[Incoming]:
    """The images of a folder of masks, ``<path>.png`` or ``<class>/<path>.png``; black: nothing is there.

    Which of the two a file is follows from the images that there are. Raises InputError where there is no mask.
    """
    found = find_images(file)
    return [_incoming(path, relative_name(path, found.root), settings) for path in found.files]


def _incoming(path: Path, name: str, settings: ImportSettings) -> Incoming:
    first, _, rest = name.partition("/")

    def read(frame: Frame) -> AnnotatedImage:
        chosen, names = settings.reading.mask_class, settings.reading.mask_classes
        label = chosen if names is not None and chosen in names.names else ONLY
        if PurePosixPath(frame.name).with_suffix("").as_posix() != name:
            label = first
        mask = read_mask_and_void(path, settings.reading).mask
        frame.check(mask.shape[1], mask.shape[0])
        shapes = Shapes(frame=frame)
        shapes.add(label, mask)
        return shapes.image([label])

    return Incoming(name=name, others=(rest,) if rest else (), part=name, read=read)
