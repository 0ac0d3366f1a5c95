import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN
from camseg.base.errors import CheckpointError, InputError
from camseg.refinement.fba import Fba, inference, load_fba, network, weights

SHARED = Path(__file__).parents[2].parent / "shared" / "conformance"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the conformance pairs are not here")


def filled(name: str, shape: torch.Size) -> torch.Tensor:
    """The seeded fill with which the conformance pairs were made."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        values /= np.sqrt(np.prod(shape[1:])).astype(np.float32)
    else:
        values = np.float32(name.endswith("weight")) + np.float32(0.1) * values
    return torch.from_numpy(values)


def parameters() -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: value.shape for name, value in network.FbaNetwork().state_dict().items()}


@pytest.fixture(scope="module")
def state():
    return {name: filled(name, shape) for name, shape in parameters().items()}


@pytest.fixture(scope="module")
def fba(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("fba") / "fba.safetensors"
    safetensors.torch.save_file(state, path)
    return load_fba(path)


def photo(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and a trimap whose columns go from background over unknown to foreground."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    thirds = np.arange(width) * 3 // width
    return image, np.broadcast_to(np.array([BACKGROUND, UNKNOWN, FOREGROUND], np.uint8)[thirds], (height, width)).copy()


# --- the network


def test_it_has_the_published_size():
    assert sum(shape.numel() for shape in parameters().values()) == 34_693_031


@needs_shared
def test_its_parameters_have_the_published_names_and_shapes_in_order():
    published = json.loads((SHARED / "fba_matting_parameters.json").read_text())["parameters"]
    assert [[name, list(shape)] for name, shape in parameters().items()] == published


@needs_shared
@pytest.mark.parametrize("pair", [0, 1])
def test_it_gives_what_the_published_code_gives(fba, pair):
    # The fill amplifies the last bit of float32: the network in float64 is 1.5e-4 away from the pairs, and so are
    # the kernels of processors without the instructions that they were made with.
    tolerance = 1e-4 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 5e-4
    given = np.load(SHARED / "fba_matting_io.npz")
    results = fba.matte(given[f"image_{pair}"], given[f"trimap_{pair}"])
    for name, ours in zip(("alpha", "fg", "bg"), results, strict=True):
        np.testing.assert_allclose(ours, given[f"{name}_{pair}"], rtol=0, atol=tolerance, err_msg=name)


def test_standardised_weights_have_mean_0_and_variance_1_per_output():
    weight = torch.tensor([[1.0, 3.0], [5.0, 5.0]]).view(2, 1, 1, 2)
    expected = torch.tensor([[-1.0, 1.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    torch.testing.assert_close(weights.standardised(weight), expected, rtol=0, atol=1e-4)


def test_fusion_of_one_pixel_by_hand():
    one = torch.ones(1, 3, 1, 1)
    # a = 0.5, I = 0.6, F = 0.8, B = 0.2: F' = 0.3 + 0.6 - 0.05 = 0.85; B' = 0.3 + 0.15 - 0.2125 = 0.2375;
    # a' = (0.05 + 3 * 0.3625 * 0.6125) / (0.1 + 3 * 0.6125^2)
    alpha, foreground, background = network.fuse(0.6 * one, torch.full((1, 1, 1, 1), 0.5), 0.8 * one, 0.2 * one)
    assert foreground.flatten().tolist() == pytest.approx([0.85] * 3)
    assert background.flatten().tolist() == pytest.approx([0.2375] * 3)
    assert alpha.item() == pytest.approx((0.05 + 3 * 0.3625 * 0.6125) / (0.1 + 3 * 0.6125**2))


def test_bands_of_rows_give_what_all_rows_at_once_give(monkeypatch):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(5, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 3, padding=1))
    x, skip = torch.rand(1, 3, 21, 6), torch.rand(1, 2, 42, 12)
    whole = network._in_bands(layers, x, skip)
    monkeypatch.setattr(network, "BAND_ROWS", 4)
    torch.testing.assert_close(network._in_bands(layers, x, skip), whole, rtol=0, atol=1e-6)


# --- its inputs


def test_squared_distances_are_whole_and_exact():
    known = np.zeros((5, 9, 2), bool)
    known[1, 2, 0] = True
    rows, columns = np.mgrid[:5, :9]
    squares = inference._squared_distances(known)
    assert (squares[..., 0] == (rows - 1) ** 2 + (columns - 2) ** 2).all()
    assert np.isinf(squares[..., 1]).all()


def test_a_tile_knows_regions_outside_of_it_and_ends_on_a_multiple_of_8():
    image, trimap = photo(13, 90)
    observed, regions, squares = inference._tile_inputs(image, trimap, np.s_[0:13, 40:56])
    assert (observed.shape, regions.shape, squares.shape) == ((16, 16, 3), (16, 16, 2), (16, 16, 2))
    assert not regions[..., 0].any()
    assert (squares[:, :, 0] == (np.arange(40, 56) - 29) ** 2).all()  # column 29 is the last of the background
    assert (observed[13:] == observed[12]).all()


@pytest.mark.parametrize(("low", "high", "size"), [(0, 3000, 3000), (700, 2100, 6000), (2990, 3000, 3000), (0, 1, 20)])
def test_spans_cover_what_is_unknown_with_weights_that_sum_to_one(low, high, size):
    unknown = np.zeros(size, bool)
    unknown[low:high] = True
    total = np.zeros(size)
    for span, weight in inference._spans(unknown):
        assert 0 <= span.start < span.stop <= size
        assert span.stop - span.start <= inference.TILE
        assert len(weight) == span.stop - span.start
        total[span] += weight
        ends = max(0, low - inference.OVERLAP), min(size, high + inference.OVERLAP)
        assert span.start in ends or not weight[: inference.UNTRUSTED].any()
        assert span.stop in ends or not weight[-inference.UNTRUSTED :].any()
    np.testing.assert_allclose(total[low:high], 1, atol=1e-6)


# --- whole images


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (33, 8)])
def test_any_size_keeps_what_is_known(fba, size):
    image, trimap = photo(*size)
    trimap[0, 0] = UNKNOWN
    alpha, foreground, background = fba.matte(image, trimap)
    for array, shape in ((alpha, size), (foreground, (*size, 3)), (background, (*size, 3))):
        assert (array.dtype, array.shape) == (np.float32, shape)
        assert 0 <= array.min() <= array.max() <= 1
    assert (alpha[trimap == FOREGROUND] == 1).all()
    assert (alpha[trimap == BACKGROUND] == 0).all()
    assert (foreground[alpha == 1] == image[alpha == 1] / np.float32(255)).all()
    assert (background[alpha == 0] == image[alpha == 0] / np.float32(255)).all()


def test_two_runs_are_equal_byte_for_byte_and_the_call_gives_the_same_alpha(fba):
    image, trimap = photo(37, 50)
    first, second = fba.matte(image, trimap), fba.matte(image, trimap)
    assert [array.tobytes() for array in first] == [array.tobytes() for array in second]
    assert fba(image, trimap).tobytes() == first[0].tobytes()


def test_without_unknown_pixels_the_network_is_not_run(fba):
    image, trimap = photo(8, 9)
    trimap[trimap == UNKNOWN] = FOREGROUND
    alpha, foreground, background = Fba(None, torch.device("cpu")).matte(image, trimap)
    assert (alpha == (trimap == FOREGROUND)).all()
    assert (foreground == image / np.float32(255)).all()
    assert (background == foreground).all()


def test_what_is_no_image_or_of_another_size_is_refused(fba):
    image, trimap = photo(8, 9)
    with pytest.raises(InputError, match="differ in size"):
        fba(image, trimap[:4])
    with pytest.raises(InputError, match="RGB image"):
        fba.matte(image[..., 0], trimap)


# --- tiles


class Local(torch.nn.Module):
    """In the network's place: alpha, F and B from the image and the distances of one pixel alone."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, image, regions, squares):
        self.sizes.append(tuple(image.shape[2:]))
        nearness = (squares / -200).exp()
        return torch.cat([0.5 * image[:, :1] + 0.5 * nearness[:, 1:], image.flip(1), 1 - image], dim=1)


@pytest.fixture
def small_tiles(monkeypatch):
    for name, value in (("TILE", 64), ("OVERLAP", 16), ("UNTRUSTED", 4)):
        monkeypatch.setattr(inference, name, value)


def test_tiles_of_a_local_network_give_what_the_whole_image_gives(small_tiles, monkeypatch):
    image, trimap = photo(61, 333)
    tiled = Local()
    alpha, foreground, background = Fba(tiled, torch.device("cpu")).matte(image, trimap)
    assert len(tiled.sizes) == 3  # the middle third, 111 columns, and 16 on either side
    assert all(height == 64 and width <= 64 and width % 8 == 0 for height, width in tiled.sizes)
    unknown = trimap == UNKNOWN
    squares = (np.arange(333) - np.flatnonzero(trimap[0] == FOREGROUND)[0]) ** 2
    expected = 0.5 * image[..., 0] / 255 + 0.5 * np.exp(squares / -200)
    np.testing.assert_allclose(alpha[unknown], expected[unknown], atol=1e-6)
    np.testing.assert_allclose(foreground[unknown], image[unknown][:, ::-1] / 255, atol=1e-6)
    np.testing.assert_allclose(background[unknown], 1 - image[unknown] / 255, atol=1e-6)


def test_tiles_without_unknown_pixels_are_not_run(small_tiles):
    image = np.zeros((80, 400, 3), np.uint8)
    trimap = np.full((80, 400), BACKGROUND, np.uint8)
    trimap[20:30, 20:30] = trimap[20:30, 370:380] = UNKNOWN
    net = Local()
    Fba(net, torch.device("cpu"))(image, trimap)
    assert len(net.sizes) == 2


def test_tiles_that_disagree_pass_into_each_other_without_a_seam(small_tiles):
    levels = iter((0.2, 0.8))

    def network(image, regions, squares):
        return torch.full((1, 7, *image.shape[2:]), next(levels))

    image, trimap = np.zeros((64, 100, 3), np.uint8), np.full((64, 100), UNKNOWN, np.uint8)
    alpha, foreground, _ = Fba(network, torch.device("cpu")).matte(image, trimap)
    for across in (alpha, foreground[..., 1]):
        np.testing.assert_allclose(across[:, [0, -1]], np.tile([0.2, 0.8], (64, 1)), atol=1e-6)
        assert 0 < np.diff(across, axis=1).max() < 0.6 / (inference.OVERLAP - 2 * inference.UNTRUSTED) + 1e-6
        assert np.diff(across, axis=1).min() >= -1e-6


# --- weights


def test_a_wrapped_pth_with_a_prefix_loads_as_the_same_network(state, fba, tmp_path):
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "x.pth"
    )
    loaded = load_fba(str(tmp_path / "x.pth")).network.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in fba.network.state_dict().items())


def small_state():
    """Memory for one value per tensor: shapes of the network, in a file of a few kilobytes."""
    return {name: torch.zeros(1).expand(shape) for name, shape in parameters().items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("encoder.conv1.weight"), r"1 missing \(first encoder.conv1.weight\)"),
        (lambda state: state.update(more=torch.zeros(1)), r"1 unknown \(first more\)"),
        (
            lambda state: state.update({"encoder.bn1.bias": torch.zeros(2)}),
            r"1 of another shape \(first encoder.bn1.bias\)",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_named(tmp_path, change, words, monkeypatch):
    state = small_state()
    change(state)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=words):
        load_fba(tmp_path / "x.pth")


class Unsafe:
    def __reduce__(self):
        return print, ("run by unpickling",)


def test_files_that_are_no_weights_are_refused(tmp_path, capsys):
    (tmp_path / "text.pth").write_text("weights")
    (tmp_path / "text.safetensors").write_text("weights")
    torch.save({"state_dict": Unsafe()}, tmp_path / "unsafe.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    for name, words in {
        "text.pth": "not loaded",
        "text.safetensors": "not a readable weights file",
        "unsafe.pth": "not loaded",
        "list.pth": "expected named tensors",
        "none.pth": "no such weights file",
        "none.safetensors": "no such weights file",
    }.items():
        with pytest.raises(CheckpointError, match=words):
            load_fba(tmp_path / name)
    assert capsys.readouterr().out == ""


def test_a_device_that_is_not_there_is_an_input_error(tmp_path):
    torch.save(small_state(), tmp_path / "x.pth")
    with pytest.raises(InputError, match="device"):
        load_fba(tmp_path / "x.pth", device="no such device")


def test_the_refiners_load_without_torch():
    code = "import camseg.refinement, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
