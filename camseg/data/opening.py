"""Image files opened: the one place that knows decoders, and puts what they raise into words."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from PIL import Image as PilImage
from PIL import UnidentifiedImageError
from PIL.ImageFile import ImageFile

from camseg.base.addresses import fetch
from camseg.base.errors import CamsegError, ImageError, InputError, first_line
from camseg.data import tiff
from camseg.data.samples import Samples, deep_samples

T = TypeVar("T")

_SEVERAL: Final = ("AVIF", "GIF", "PNG", "WEBP")
"""Formats of Pillow whose frames are pictures; elsewhere they are layers, or a photo's own brightness map."""
_ANEW: Final = "; save it anew, as PNG or 8-bit TIFF"
_HEIC: Final = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def read_file(path: Path, eight: Callable[[ImageFile], T], deep: Callable[[Samples], T], page: int = 0) -> T:
    """What ``eight`` makes of a picture of up to 8 bits, or ``deep`` of samples of more.

    ``page``: of several, counted from 0. Raises ImageError for a file that is missing, empty, cut short, too large,
    of a kind that cannot be read, or that the two functions cannot use; InputError for a page that it lacks.
    """

    def read(file: BinaryIO, head: bytes) -> T:
        if not head.startswith(tiff.MAGIC):
            with _picture(file, head) as picture:
                _seek(path, picture, page)
                samples = deep_samples(picture, file)
                return eight(picture) if samples is None else deep(samples)
        with tiff.opened(file) as tags:
            number = tiff.find_page(str(path), tags, page)
            tiff.check_whole(str(path), file, tags.pages[number])
            if tiff.is_plain(tags.pages[number]):
                try:
                    picture = _picture(file, head)
                except UnidentifiedImageError:
                    pass  # tifffile may know it
                else:
                    with picture:
                        picture.seek(number)
                        return eight(picture)
            return deep(tiff.read_samples(str(path), file, tags.pages[number]))

    return _open(path, read)


def count_frames(path: Path | str) -> int:
    """How many pictures a file holds, of which readers take the first; ImageError for a file that cannot be read.

    Pages of a TIFF and frames of an animation count; smaller copies, layers and a phone's additions do not.
    """

    place = Path(path)

    def count(file: BinaryIO, head: bytes) -> int:
        if head.startswith(tiff.MAGIC):
            with tiff.opened(file) as tags:
                return tiff.count_pages(tags)
        with _picture(file, head) as picture:
            return int(getattr(picture, "n_frames", 1)) if picture.format in _SEVERAL else 1

    return _open(place, count)


def _open(path: Path, read: Callable[[BinaryIO, bytes], T]) -> T:
    """Call with the open file and its beginning; what is raised becomes an ImageError that names the file."""
    head = b""
    fetch(path)
    try:
        # Opened here: of a file that Pillow opens itself it may map the memory, which turns rotated TIFF wrongly.
        with path.open("rb") as file:
            head = file.read(512)
            if not head:
                raise ImageError(f"{path}: the file is empty")
            file.seek(0)
            return read(file, head)
    except CamsegError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path}: {_unknown(head)}") from None
    except PilImage.DecompressionBombError as error:
        raise ImageError(f"{path}: {error}; tile it") from None
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except (PermissionError, IsADirectoryError) as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    except MemoryError:
        raise ImageError(f"{path}: its pixels need more memory than there is; tile it") from None
    except Exception as error:  # of every kind: decoders meet data that nobody foresaw
        raise ImageError(f"{path}: cannot be read ({first_line(error)}){_ANEW}") from None


def _picture(file: BinaryIO, head: bytes) -> ImageFile:
    """The picture by Pillow, not decoded yet."""
    file.seek(0)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
        try:
            import pillow_heif  # type: ignore[import-not-found,unused-ignore]

            pillow_heif.register_heif_opener()
        except ImportError:
            pass
    return PilImage.open(file)


def _seek(path: Path, picture: ImageFile, page: int) -> None:
    if page:
        frames = int(getattr(picture, "n_frames", 1))
        if not 0 < page < frames:
            raise InputError(f"{path}: expected a page from 0 to {frames - 1}; got {page}")
        picture.seek(page)


def _unknown(head: bytes) -> str:
    """What a file is that no decoder took, by its first 512 bytes."""
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in _HEIC:
        return "a HEIC picture; pip install 'camseg[heic]' to read it"
    if brand in (b"avif", b"avis"):
        return "an AVIF picture, which this Pillow cannot read; pip install -U pillow"
    if brand:
        return "a video; camseg prepare frames takes its frames"
    if head[:4] == b"8BPS":
        bits = int.from_bytes(head[22:24], "big")
        return f"a Photoshop file of {bits}-bit channels, which cannot be read{_ANEW}"
    if head[128:132] == b"DICM":
        return "a DICOM file; camseg prepare dicom makes images of it"
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return "a NIfTI volume; camseg prepare slices makes images of it"
    kinds = {
        b"\xff\x0a": "a JPEG XL picture",
        b"\0\0\0\x0cJXL ": "a JPEG XL picture",
        b"v/1\x01": "an OpenEXR picture",
        b"#?": "a Radiance picture",
        b"\x93NUMPY": "a NumPy array",
        b"%PDF": "a PDF document",
        b"PF\n": "a PFM file of colours",
        b"P7\n": "a PAM file",
    }
    known = (kind for start, kind in kinds.items() if head.startswith(start))
    return next(known, "not an image of a kind that can be read") + _ANEW
