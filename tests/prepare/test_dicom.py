"""DICOM files to images: the grey pipeline, colours, frames, and what is written of a patient."""

import hashlib
import io
import sys

import numpy as np
import pytest
from PIL import Image as PilImage

from camseg.base.errors import InputError
from camseg.data.datasets import load_images
from camseg.data.images import read_image, read_levels
from camseg.prepare.dicom import prepare_dicom
from camseg.prepare.settings import DicomSettings
from camseg.prepare.windows import find_common_limits
from camseg.runs.manifest import read_manifest

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless, generate_uid  # noqa: E402

RAMP = np.arange(0, 240, 10).reshape(4, 6)
"""Levels that fit every type."""


def make(pixels=RAMP, kind="MONOCHROME2", dtype=np.uint16, stored=None, **tags):
    """A dataset of (H, W), or for colours (H, W, 3), or with NumberOfFrames (frames, H, W)."""
    pixels = np.asarray(pixels, dtype)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[kind, str(tags)])
    data.PhotometricInterpretation = kind
    data.SamplesPerPixel = 3 if kind.startswith(("RGB", "YBR")) else 1
    size = pixels.shape[1:3] if "NumberOfFrames" in tags else pixels.shape[:2]
    data.Rows, data.Columns = size
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * pixels.itemsize
    data.BitsStored = stored or data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    for name, value in {"PatientID": "patient-7", **tags}.items():
        setattr(data, name, value)
    return data


@pytest.fixture
def show(tmp_path):
    """The image that a dataset becomes."""

    def run(data, **settings):
        folder, out = tmp_path / "in", tmp_path / "out"
        folder.mkdir(exist_ok=True)
        data.save_as(folder / "a.dcm", enforce_file_format=True)
        report = prepare_dicom(folder / "a.dcm", out, DicomSettings(**settings))
        assert report.failed == []
        return read_image(out / "a.png")

    return run


def grey(values):
    """The grey RGB image of values in [0, 1]."""
    return np.repeat(np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)[..., None], 3, axis=2)


def lut(values, first, bits):
    table = Dataset()
    table.add_new((0x0028, 0x3002), "US", [len(values), first, bits])
    table.add_new((0x0028, 0x3006), "US", list(values))
    return table


# Grey


def test_the_files_window_is_applied_to_rescaled_values(show):
    data = make(RAMP - 100, dtype=np.int16, RescaleSlope=2, RescaleIntercept=-24, WindowCenter=40, WindowWidth=401)
    values = 2.0 * (RAMP - 100) - 24
    assert np.array_equal(show(data), grey((values - 39.5) / 400 + 0.5))


def test_monochrome1_is_inverted_after_its_window(show):
    data = make(kind="MONOCHROME1", WindowCenter=[100, 5], WindowWidth=[101, 5])
    assert np.array_equal(show(data), grey(1 - np.clip((RAMP - 99.5) / 100 + 0.5, 0, 1)))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR_EXACT", (RAMP - 100.0) / 80 + 0.5),
        ("SIGMOID", 1 / (1 + np.exp(-4 * (RAMP - 100.0) / 80))),
        ("LINEAR", (RAMP - 99.5) / 79 + 0.5),
    ],
)
def test_the_windows_function_is_honoured(show, function, expected):
    data = make(WindowCenter=100, WindowWidth=80, VOILUTFunction=function)
    assert np.array_equal(show(data), grey(expected))


def test_a_window_of_width_one_is_a_threshold(show):
    assert np.array_equal(show(make(WindowCenter=100, WindowWidth=1)), grey(RAMP > 99.5))


def test_tables_of_values_are_honoured(show):
    voi = make(VOILUTSequence=[lut(range(0, 1000, 10), 50, 10)], WindowCenter=1, WindowWidth=2)
    assert np.array_equal(show(voi), grey(np.clip(RAMP - 50, 0, 99) * 10 / 1023))


def test_the_modalitys_table_comes_first(show):
    data = make(ModalityLUTSequence=[lut(range(1000, 1256), 0, 16)], WindowCenter=1100, WindowWidth=101)
    assert np.array_equal(show(data), grey((RAMP + 1000 - 1099.5) / 100 + 0.5))


@pytest.mark.parametrize(
    ("window", "low", "high"), [("full", 0, 230), ("50,150", 50, 150), ("percentile", 1.15, 228.85)]
)
def test_another_window_replaces_the_files(show, window, low, high):
    data = make(WindowCenter=1, WindowWidth=2)
    assert np.array_equal(show(data, window=window), grey((RAMP - low) / (high - low)))


def test_without_a_window_the_percentiles_are_taken(show):
    assert np.array_equal(show(make(stored=12)), grey((RAMP - 1.15) / (228.85 - 1.15)))


def test_a_flat_image_is_black(show):
    assert not show(make(RAMP * 0 + 7)).any()


# Padding


def padded(low=0, high=80, padding=-2000, rows=2):
    """Values with two rows of padding, and the part below them."""
    values = np.linspace(low, high, 24).astype(int).reshape(4, 6)
    values[:rows] = padding
    return values, values[rows:]


@pytest.mark.parametrize("window", ["file", "percentile"])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_takes_no_part_in_the_window_and_is_dark(show, window, kind):
    values, tissue = padded()
    data = make(values, kind, np.int16, PixelPaddingValue=-2000, RescaleSlope=2, RescaleIntercept=-1024)
    low, high = np.percentile(tissue, (0.5, 99.5))
    expected = (tissue - low) / (high - low)
    shown = show(data, window=window)
    assert not shown[:2].any()
    assert np.array_equal(shown[2:], grey(1 - expected if kind == "MONOCHROME1" else expected))


@pytest.mark.parametrize("window", ["file", "0,80"])
def test_padding_above_a_given_window_is_dark_too(show, window):
    values, tissue = padded(padding=4095)
    data = make(values, stored=12, PixelPaddingValue=4095, WindowCenter=40.5, WindowWidth=81)
    shown = show(data, window=window)
    assert not shown[:2].any()
    assert np.array_equal(shown[2:], grey(tissue / 80))


@pytest.mark.parametrize(("value", "limit"), [(-2000, -1990), (-1990, -2000)])
def test_padding_may_be_a_range(show, value, limit):
    values, tissue = padded()
    values[0] = [-2000, -1999, -1998, -1995, -1991, -1990]
    values[1] = -1995
    data = make(values, dtype=np.int16, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
    shown = show(data, window="full")
    assert not shown[:2].any()
    assert np.array_equal(shown[2:], grey((tissue - tissue.min()) / (tissue.max() - tissue.min())))


@pytest.mark.parametrize(("stored", "written"), [(16, 63536), (12, 63536), (12, 2096)])
def test_padding_of_signed_values_may_be_written_as_unsigned(show, stored, written):
    values, _ = padded()
    data = make(values, dtype=np.int16, stored=stored)
    data.add_new("PixelPaddingValue", "US", written)
    shown = show(data, window="full")
    assert not shown[:2].any()
    assert shown[2:].max() == 255


def test_what_is_all_padding_is_black(show):
    assert not show(make(RAMP * 0 + 9, "MONOCHROME1", PixelPaddingValue=9)).any()


def test_floats_have_padding_of_their_own(show):
    values, tissue = padded(padding=-1)
    data = make(values)
    del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
    data.BitsAllocated, data.FloatPixelData = 32, values.astype(np.float32).tobytes()
    data.FloatPixelPaddingValue = -1.0
    shown = show(data, window="full")
    assert not shown[:2].any()
    assert np.array_equal(shown[2:], grey((tissue - tissue.min()) / (tissue.max() - tissue.min())))


# Colour

COLORS = np.random.default_rng(0).integers(0, 256, (4, 6, 3))


def test_rgb_by_pixels(show):
    assert np.array_equal(show(make(COLORS, "RGB", np.uint8)), COLORS)


def test_rgb_by_planes(show):
    data = make(COLORS, "RGB", np.uint8, PlanarConfiguration=1)
    data.PixelData = np.moveaxis(COLORS, 2, 0).astype(np.uint8).tobytes()
    assert np.array_equal(show(data), COLORS)


def test_ybr_becomes_rgb(show):
    y, cb, cr = (plane.astype(float) for plane in np.moveaxis(COLORS, 2, 0))
    red = y + 1.402 * (cr - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    blue = y + 1.772 * (cb - 128)
    expected = np.clip(np.stack([red, green, blue], axis=-1), 0, 255)
    assert np.abs(show(make(COLORS, "YBR_FULL", np.uint8)) - expected).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_become_rgb(show, bits):
    data = make(RAMP // 10, "PALETTE COLOR", np.uint8)
    table = np.random.default_rng(1).integers(0, 2**bits, (24, 3))
    for channel, name in enumerate(("Red", "Green", "Blue")):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [24, 0, bits])
        entries = table[:, channel].astype(f"uint{bits}").tobytes()
        setattr(data, f"{name}PaletteColorLookupTableData", entries)
    expected = np.rint(table[RAMP // 10] * 255 / (2**bits - 1))
    assert np.array_equal(show(data), expected)


# Compressed and several frames


def test_rle(show):
    data = make(WindowCenter=100, WindowWidth=101)
    data.compress(RLELossless)
    assert np.array_equal(show(data), grey((RAMP - 99.5) / 100 + 0.5))


def test_jpeg(show):
    picture = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    file = io.BytesIO()
    PilImage.fromarray(picture).save(file, "JPEG", quality=95)
    data = make(picture, "YBR_FULL_422", np.uint8)
    data.PixelData = pydicom.encaps.encapsulate([file.getvalue()])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert np.abs(show(data).astype(int) - picture).max() <= 3


def functional_group(slope, intercept, center):
    group, transform, window = Dataset(), Dataset(), Dataset()
    transform.RescaleSlope, transform.RescaleIntercept = slope, intercept
    window.WindowCenter, window.WindowWidth = center, 101
    group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [transform], [window]
    return group


def test_frames_are_numbered_and_have_windows_of_their_own(tmp_path):
    frames = np.stack([RAMP, RAMP + 5, RAMP + 9])
    own, shared = functional_group(1, 0, 120), functional_group(2, -10, 200)
    data = make(frames, NumberOfFrames=3, SharedFunctionalGroupsSequence=[shared])
    data.PerFrameFunctionalGroupsSequence = [own, Dataset(), Dataset()]
    (tmp_path / "in").mkdir()
    data.save_as(tmp_path / "in/loop.dcm", enforce_file_format=True)
    report = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert (report.images, report.failed) == (3, [])
    read = [read_levels(tmp_path / f"out/loop/{number:04}.png") for number in range(3)]
    assert np.array_equal(read[0], grey((RAMP - 119.5) / 100 + 0.5)[..., 0])
    assert np.array_equal(read[1], grey((2 * (RAMP + 5) - 10 - 199.5) / 100 + 0.5)[..., 0])
    assert np.array_equal(read[2], grey((2 * (RAMP + 9) - 10 - 199.5) / 100 + 0.5)[..., 0])


def test_frames_without_a_window_have_one_together(tmp_path):
    frames = np.stack([RAMP, RAMP + 1000, RAMP + 500])
    frames[0, 0] = frames[2, 1] = 9999
    data = make(frames, NumberOfFrames=3, PixelPaddingValue=9999)
    (tmp_path / "in").mkdir()
    data.save_as(tmp_path / "in/loop.dcm", enforce_file_format=True)
    report = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert list(report.noted.values()) == [1]
    assert "several frames state no window" in next(iter(report.noted))
    low, high = np.percentile(frames[frames != 9999], (0.5, 99.5))
    for number, frame in enumerate(frames):
        expected = np.where(frame == 9999, 0, (frame - low) / (high - low))
        assert np.array_equal(read_image(tmp_path / f"out/loop/{number:04}.png"), grey(expected))


def test_one_window_of_several_parts_is_that_of_all_their_values():
    parts = [np.random.default_rng(number).integers(-40, 40 + 100 * number, (7, 9)) * 0.5 for number in range(5)]
    everything = np.concatenate([part.ravel() for part in parts])
    assert find_common_limits(parts, "percentile") == pytest.approx(tuple(np.percentile(everything, (0.5, 99.5))))
    assert find_common_limits(parts, "full") == (everything.min(), everything.max())
    assert find_common_limits([np.zeros(0), np.full(3, np.nan)], "full") == (0.0, 1.0)


# Names


@pytest.fixture
def archive(tmp_path):
    """Two patients' files, one of them without a suffix, beside what is no image."""
    folder = tmp_path / "in"
    for name, patient in (("DOE_JANE/IM1.dcm", "MRN00123"), ("DOE_JANE/1.2.3", "MRN00123"), ("mrn9/x.IMA", "MRN9")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        data = make(PatientID=patient, PatientName="Doe^Jane" if patient == "MRN00123" else "Li^Bo")
        data.save_as(folder / name, enforce_file_format=True)
    (folder / "DICOMDIR").write_bytes((folder / "mrn9/x.IMA").read_bytes())
    (folder / "notes.txt").write_text("nothing")
    return folder


def pseudonym(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_patients_are_written_as_pseudonyms(archive, tmp_path):
    out = tmp_path / "out"
    report = prepare_dicom(archive, out)
    assert (report.done, report.failed) == (3, [])
    samples = load_images(out / "labels.csv").samples
    folder = pseudonym("DOE_JANE")
    assert {sample.name: sample.group for sample in samples} == {
        f"{folder}/1.2.3": pseudonym("MRN00123"),
        f"{folder}/IM1": pseudonym("MRN00123"),
        f"{pseudonym('mrn9')}/x": pseudonym("MRN9"),
    }
    assert all(sample.labels is None for sample in samples)
    tables = ("labels.csv", "manifest.jsonl", "run.json")
    written = "".join((out / name).read_text() for name in tables) + " ".join(
        map(str, (p.relative_to(out) for p in out.rglob("*")))
    )
    assert not any(word in written.lower() for word in ("doe", "jane", "mrn"))


def test_files_that_fail_tell_nothing_of_the_patient_either(archive, tmp_path):
    (archive / "DOE_JANE/junk.dcm").write_bytes(b"junk" * 100)
    report = prepare_dicom(archive, tmp_path / "out")
    assert str(archive / "DOE_JANE/junk.dcm") in report.failed[0]
    (failed,) = (record for record in read_manifest(tmp_path / "out") if record.failed)
    assert (failed.input, failed.error) == (
        pseudonym("DOE_JANE/junk"),
        f"{pseudonym('DOE_JANE/junk')}: not a DICOM file, or its header is damaged",
    )
    assert "doe" not in (tmp_path / "out/manifest.jsonl").read_text().lower()


@pytest.mark.parametrize("keep_ids", [True, False])
def test_the_manifest_says_which_object_and_frame_an_image_is(tmp_path, keep_ids):
    (tmp_path / "in").mkdir()
    data = make(np.stack([RAMP, RAMP + 1]), NumberOfFrames=2, WindowCenter=100, WindowWidth=101)
    data.save_as(tmp_path / "in/loop.dcm", enforce_file_format=True)
    prepare_dicom(tmp_path / "in", tmp_path / "out", DicomSettings(keep_ids=keep_ids))
    first, second = (record.source for record in read_manifest(tmp_path / "out"))
    uid = str(data.SOPInstanceUID)
    assert first.instance == second.instance == (uid if keep_ids else pseudonym(uid))
    assert (first.frame, second.frame, first.window) == (0, 1, (49.5, 150.5))
    assert first.name == "loop"


def test_ids_can_be_kept(archive, tmp_path):
    prepare_dicom(archive, tmp_path / "out", DicomSettings(keep_ids=True))
    assert {sample.name: sample.group for sample in load_images(tmp_path / "out/labels.csv").samples} == {
        "DOE_JANE/1.2.3": "MRN00123",
        "DOE_JANE/IM1": "MRN00123",
        "mrn9/x": "MRN9",
    }


def test_without_an_id_the_study_is_the_group(tmp_path):
    (tmp_path / "in").mkdir()
    for name, study in (("a", "1.2.3"), ("b", "1.2.3"), ("c", "1.2.4")):
        make(PatientID="", StudyInstanceUID=study).save_as(tmp_path / f"in/{name}.dcm", enforce_file_format=True)
    prepare_dicom(tmp_path / "in", tmp_path / "out")
    a, b, c = (sample.group for sample in load_images(tmp_path / "out/labels.csv").samples)
    assert a == b != c


# What is wrong


def test_files_of_old_devices_have_no_preamble(tmp_path):
    data = make(WindowCenter=100, WindowWidth=101)
    del data.file_meta
    (tmp_path / "in").mkdir()
    data.save_as(tmp_path / "in/old.dcm", implicit_vr=True, little_endian=True)
    report = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert report.failed == []
    assert np.array_equal(read_image(tmp_path / "out/old.png"), grey((RAMP - 99.5) / 100 + 0.5))


def test_what_is_wrong_with_one_file_leaves_the_others(archive, tmp_path):
    (archive / "junk.dcm").write_bytes(b"junk" * 100)
    (archive / "empty.dcm").touch()
    whole = (archive / "mrn9/x.IMA").read_bytes()
    (archive / "cut.dcm").write_bytes(whole[:-20])
    for name, data in (
        ("report", make()),
        ("pixels", make()),
        ("width", make(WindowCenter=1, WindowWidth=0)),
        ("kind", make(COLORS, "YBR_PARTIAL_420", np.uint8)),
    ):
        if name in ("report", "pixels"):
            del data.PixelData
        if name == "report":
            del data.Rows
        data.save_as(archive / f"{name}.dcm", enforce_file_format=True)
    report = prepare_dicom(archive, tmp_path / "out")
    assert (report.done, report.images) == (4, 3)
    assert dict(report.skipped) == {"DICOM objects that are no images, such as reports and plans": 1}
    words = {line.split(".dcm")[0].rsplit("/", 1)[-1]: line for line in report.failed}
    assert set(words) == {"junk", "empty", "cut", "pixels", "width", "kind"}
    assert "not a DICOM file" in words["junk"]
    assert "pixels are missing" in words["pixels"]
    assert "width of 0" in words["width"]
    assert "photometric" in words["kind"].lower()
    assert all("\n" not in line for line in report.failed)


def test_unusable_inputs_are_refused(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match="expected DICOM files"):
        prepare_dicom(tmp_path, tmp_path.with_name("out"))
    with pytest.raises(InputError, match="window"):
        DicomSettings(window="bright")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"camseg\[dicom\]"):
        prepare_dicom(tmp_path, tmp_path.with_name("out"))


def test_the_command(archive, tmp_path, call):
    out = tmp_path / "out"
    assert call("prepare", "dicom", archive, "--out", out, "--window", "-100,200", "--keep-ids")[0] == 0
    assert read_levels(out / "mrn9/x.png")[0, 0] == 85
    (archive / "junk.dcm").write_bytes(b"junk" * 100)
    code, _, err = call("prepare", "dicom", archive, "--out", out, "--overwrite")
    assert code == 1
    assert "junk.dcm: not a DICOM file" in err
    assert not (out / "mrn9").joinpath("x.png").exists()
