import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN
from camseg.base.errors import CheckpointError, InputError
from camseg.data.datasets import Sample
from camseg.label.stages import RefineStage
from camseg.refinement.refine import open_refiner, refine, refine_with_report, weights_hash
from camseg.refinement.sam import Sam, load_sam, prompts, weights
from camseg.refinement.sam.weights import SamNetwork
from camseg.refinement.settings import RefineSettings
from camseg.runs.stage import new_item

# --- prompts and answers, without a network


def square(top: int, left: int, height: int, width: int, size: tuple[int, int] = (20, 20)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_parts_touch_at_corners_and_have_boxes_by_their_edges():
    mask = square(1, 2, 2, 3) | square(3, 5, 1, 1) | square(10, 10, 4, 4)
    first, second = prompts.parts(mask)
    assert np.array_equal(first, square(1, 2, 2, 3) | square(3, 5, 1, 1))
    assert np.array_equal(second, square(10, 10, 4, 4))
    assert prompts.box_around(first).tolist() == [2, 1, 6, 4]
    assert not list(prompts.parts(np.zeros((3, 4), bool)))


class Steps:
    """Stands for random numbers: the ends of the range, and its middle."""

    def uniform(self, low, high, shape):
        return np.array([[low] * 4, [high] * 4, [0.0] * 4])[: shape[0]]


def test_sides_of_boxes_move_by_a_tenth_of_the_box_and_stay_in_the_image():
    box = np.array([10.0, 20.0, 30.0, 60.0])  # 20 wide, 40 high: by 2 and 4
    boxes = prompts.jittered_boxes(box, (100, 100), Steps(), count=3)
    assert boxes.tolist() == [[10, 20, 30, 60], [8, 16, 28, 56], [12, 24, 32, 64], [10, 20, 30, 60]]
    edge = prompts.jittered_boxes(np.array([1.0, 0.0, 21.0, 40.0]), (40, 22), Steps(), count=2)
    assert edge.tolist() == [[1, 0, 21, 40], [0, 0, 19, 36], [3, 4, 22, 40]]


def test_boxes_of_a_random_generator_stay_within_the_tenth():
    box = np.array([10.0, 20.0, 30.0, 60.0])
    boxes = prompts.jittered_boxes(box, (100, 100), np.random.default_rng(0), count=500)
    moved = np.abs(boxes - box) / [20, 40, 20, 40]
    assert 0.09 < moved.max() <= 0.1
    assert len(np.unique(boxes, axis=0)) == 501


def test_the_image_decides_the_jitter():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    other = image.copy()
    other[4, 4, 0] ^= 1
    same, again, different = (prompts.generator(each).random() for each in (image, image[::1], other))
    assert same == again != different


def test_without_a_map_the_point_is_farthest_from_the_outline():
    part = square(2, 3, 5, 5)
    assert prompts.peaks(part, None).tolist() == [[5.5, 4.5]]
    part = square(0, 0, 3, 9, (3, 9))  # the image's border is an outline too
    assert prompts.peaks(part, None).tolist() == [[1.5, 1.5]]
    assert prompts.peaks(square(7, 8, 1, 1), None).tolist() == [[8.5, 7.5]]


def test_points_are_the_peaks_of_the_map_highest_first():
    part = square(0, 0, 20, 20)
    cam = np.zeros((20, 20), np.float32)
    cam[3, 4], cam[15, 16], cam[15, 3], cam[4, 4], cam[5, 15] = 0.9, 1.0, 0.79, 0.85, 0.8
    # 0.79 is less than 0.8 of the highest; (4, 4) lies within 0.25 * 20 pixels of a higher one.
    assert prompts.peaks(part, cam).tolist() == [[16.5, 15.5], [4.5, 3.5], [15.5, 5.5]]
    cam[10, 10] = 0.95
    assert prompts.peaks(part, cam).tolist() == [[16.5, 15.5], [10.5, 10.5], [4.5, 3.5]]  # three at most


def test_peaks_outside_of_the_part_do_not_count():
    part = square(5, 5, 5, 5)
    cam = np.full((20, 20), 0.2, np.float32)
    cam[0, 0], cam[6, 8] = 1.0, 0.6
    assert prompts.peaks(part, cam).tolist() == [[8.5, 6.5]]


def test_of_a_flat_map_the_middle_of_the_part_is_a_peak():
    part = square(2, 3, 5, 5)
    assert prompts.peaks(part, np.zeros((20, 20), np.float32))[0].tolist() == [5.5, 4.5]


def test_the_central_answer_has_the_largest_mean_intersection_over_union():
    answers = [square(0, 0, 10, width) for width in (4, 5, 8, 20)]
    # IoU: 4/5, 4/8, 4/20 | 4/5, 5/8, 5/20 | 4/8, 5/8, 8/20 | ...: sums 1.5, 1.675, 1.525, 0.85
    assert prompts.most_central(answers) == 1
    assert prompts.most_central(answers[::-1]) == 2
    assert prompts.most_central([answers[0]]) == 0
    assert prompts.most_central([square(0, 0, 0, 0), answers[0], square(0, 0, 0, 0)]) == 0


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        (square(5, 5, 4, 5), True),
        (square(5, 5, 4, 2), True),  # 8 of 20
        (square(5, 5, 7, 1), False),  # 4 of 23
        (square(5, 5, 10, 5), True),  # 20 of 50
        (square(5, 5, 10, 6), False),  # 20 of 60
        (square(0, 0, 0, 0), False),
    ],
)
def test_an_answer_below_two_fifths_is_not_taken(answer, taken):
    assert prompts.agrees(answer, square(5, 5, 4, 5)) is taken


# --- the refiner, with a network that says what it is told


class Scripted(torch.nn.Module):
    """Stands for SAM: fills each box, moved to the right by ``shift`` of its pixels where it begins below ``row``."""

    def __init__(self, side: int, shift: float = 0, row: float = 0, size: int | None = None):
        super().__init__()
        self.side, self.shift, self.row, self.size = side, shift, row, size or side // 4
        self.seen, self.asked = [], []

    def get_image_embeddings(self, pixels):
        self.seen.append(pixels)
        return pixels

    def forward(self, image_embeddings, input_boxes, multimask_output, input_points=None, input_labels=None):
        assert image_embeddings is self.seen[-1]
        assert not multimask_output
        self.asked.append((input_boxes, input_points))
        boxes = (input_boxes[0] + 0.5) * self.size / self.side
        x = y = torch.arange(self.size) + 0.5
        left, top, right, bottom = boxes.T[:, :, None, None]
        moved = torch.where(top >= self.row * self.size / self.side, self.shift * self.size / self.side, 0.0)
        inside = torch.minimum(
            torch.minimum(x[None, None] - left - moved, right + moved - x[None, None]),
            torch.minimum(y[None, :, None] - top, bottom - y[None, :, None]),
        )
        return type("Output", (), {"pred_masks": inside[None, :, None]})


def scripted(model: Scripted, stretched: bool = False) -> Sam:
    network = SamNetwork(model=model, side=model.side, stretched=stretched, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Sam(network, torch.device("cpu"))


def scene(size=(48, 64)):
    """An image, a trimap and the mask that it came from: two rectangles."""
    mask = square(8, 8, 12, 16, size) | square(28, 36, 12, 16, size)
    trimap = np.where(mask, UNKNOWN, BACKGROUND).astype(np.uint8)
    trimap[6:22, 6:26] = trimap[26:42, 34:54] = UNKNOWN
    trimap[12:16, 12:20] = trimap[32:36, 40:48] = FOREGROUND
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    return image, trimap, mask


@pytest.mark.parametrize("stretched", [False, True])
def test_an_image_is_seen_once_and_its_parts_are_asked_about(stretched):
    image, trimap, mask = scene()
    model = Scripted(128)
    answered = scripted(model, stretched).segment(image, trimap, mask)
    assert (answered.parts, answered.kept) == (2, 0)
    assert len(model.seen) == 1
    assert len(model.asked) == 4  # each part with boxes alone, and with points too
    assert np.mean((answered.alpha > 0.5) != mask) < 0.03  # boxes have moved by up to a tenth
    boxes, points = model.asked[1]
    assert boxes.shape == (1, prompts.JITTERED + 1, 4)
    scale = (2, 128 / 48) if stretched else (2, 2)
    assert boxes[0, 0].tolist() == pytest.approx(np.array([8, 8, 24, 20]) * [*scale, *scale] - 0.5)
    assert points.shape == (1, prompts.JITTERED + 1, 1, 2)
    row = 8 + 5.5  # of the rows in the middle the first, in which the first pixel is taken that is six from the outline
    assert points[0, 0, 0].tolist() == pytest.approx(np.array([8 + 5.5, row]) * scale - 0.5)


def test_points_come_from_the_map_where_there_is_one():
    image, trimap, mask = scene()
    cam = mask.astype(np.float32) * np.float32(0.5)
    cam[9, 22] = 1
    model = Scripted(128)
    scripted(model).segment(image, trimap, mask, cam)
    assert model.asked[1][1][0, 0].tolist() == [[44.5, 18.5]]


def test_the_image_is_scaled_normalised_and_padded():
    image = np.full((24, 32, 3), 255, np.uint8)
    model = Scripted(64)
    scripted(model)._embeddings(image)
    (pixels,) = model.seen
    assert pixels.shape == (1, 3, 64, 64)
    assert (pixels[:, :, :48] == 1).all()
    assert (pixels[:, :, 48:] == 0).all()  # padding is zero behind the normalisation
    scripted(model, stretched=True)._embeddings(image)
    assert (model.seen[-1] == 1).all()


def test_known_pixels_stay_known():
    image, trimap, mask = scene()
    trimap[8:12, 8:24] = BACKGROUND
    trimap[20:22, 8:24] = FOREGROUND
    alpha = scripted(Scripted(128)).segment(image, trimap, mask).alpha
    assert alpha.dtype == np.float32
    assert set(np.unique(alpha)) == {0, 1}
    assert (alpha[trimap == FOREGROUND] == 1).all()
    assert (alpha[trimap == BACKGROUND] == 0).all()


def test_a_part_keeps_its_seed_where_the_answer_agrees_too_little():
    image, trimap, mask = scene()
    trimap[:] = np.where(trimap == FOREGROUND, FOREGROUND, UNKNOWN)
    trimap[0, 0] = BACKGROUND
    answered = scripted(Scripted(128, shift=60, row=48)).segment(image, trimap, mask)
    assert (answered.parts, answered.kept) == (2, 1)
    assert np.array_equal(answered.alpha[24:] > 0.5, mask[24:])
    assert answered.alpha[:24].any()


@pytest.fixture
def told(monkeypatch):
    """Make ``refine`` use a scripted network."""

    def tell(model):
        monkeypatch.setattr("camseg.refinement.refine._network", lambda *_: scripted(model))

    return tell


def test_the_report_says_where_seeds_were_kept(told):
    image, trimap, mask = scene()
    told(Scripted(128))
    refined = refine_with_report(image, trimap, "sam", mask, weights="folder", colors=True)
    assert (refined.method, refined.fallback) == ("sam", None)
    assert refined.foreground.shape == image.shape
    assert np.array_equal(
        refine(image, trimap, "sam", weights="folder"), refine(image, trimap, "sam", weights="folder")
    )
    told(Scripted(128, shift=60, row=48))
    refined = refine_with_report(image, trimap, "sam", mask, weights="folder")
    assert (refined.method, refined.fallback) == ("sam", "drifted off in parts")
    assert refined.alpha.any()
    told(Scripted(128, shift=60))
    refined = refine_with_report(image, trimap, "sam", mask, weights="folder")
    assert (refined.method, refined.fallback) == (None, "drifted off")
    assert np.array_equal(refined.alpha, mask)


def test_the_stage_hands_the_map_on_and_records_the_fallback(told):
    image, trimap, mask = scene()
    cam = mask.astype(np.float32) * np.float32(0.5)
    cam[9, 22] = 1
    model = Scripted(128, shift=60, row=48)
    told(model)
    item = replace(new_item(Sample(path=Path("a.png"), name="a")), pixels=image, mask=mask, trimap=trimap)
    done = RefineStage(settings=RefineSettings(method="sam", weights="folder")).each(replace(item, cams={"par": cam}))
    assert (done.record.refiner, done.record.fallback) == ("sam", "drifted off in parts")
    assert model.asked[1][1][0, 0].tolist() == [[44.5, 18.5]]


def test_a_map_of_another_size_is_refused():
    image, trimap, mask = scene()
    with pytest.raises(InputError, match="differ in size"):
        refine_with_report(image, trimap, mask=mask, cam=np.zeros((3, 3), np.float32))
    with pytest.raises(InputError, match="differ in size"):
        scripted(Scripted(128)).segment(image, trimap[1:])


def test_without_weights_the_folder_is_asked_for():
    image, trimap, _ = scene()
    with pytest.raises(InputError, match=r"sam is a trained network .* --weights FOLDER .* save_pretrained"):
        refine(image, trimap, "sam")
    with pytest.raises(InputError, match="choose fba or sam"):
        RefineSettings(method="grabcut", weights="folder")
    with pytest.raises(InputError, match="choose fba or sam"):
        RefineSettings(method="none", weights="folder")


def test_without_transformers_the_extra_is_named(monkeypatch, tmp_path):
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text(json.dumps({"model_type": "sam", "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}))

    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(weights.importlib, "import_module", absent)
    with pytest.raises(InputError, match=r"No module named 'transformers'.*pip install 'camseg\[sam\]'"):
        load_sam(tmp_path)


# --- tiny networks of transformers, with random weights

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def tiny_sam(transformers):
    vision = {"hidden_size": 16, "output_channels": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 64, "patch_size": 8, "window_size": 0, "global_attn_indexes": [0], "num_pos_feats": 4}
    prompt = {"hidden_size": 8, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    config = transformers.SamConfig(
        vision_config={**vision, "mlp_dim": 16}, prompt_encoder_config=prompt, mask_decoder_config=DECODER
    )
    return transformers.SamModel(config)


def tiny_sam2(transformers, kind="Sam2"):
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [64, 64],
    }
    backbone |= {
        "blocks_per_stage": [1, 1, 1, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "global_attention_blocks": [],
    }
    backbone |= {"num_attention_heads_per_stage": [1, 1, 1, 1], "window_size_per_stage": [4, 2, 2, 2]}
    backbone |= {"window_positional_embedding_background_size": [2, 2]}
    vision = {"backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32}
    vision |= {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
    prompt = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    config = getattr(transformers, f"{kind}Config")(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config={**DECODER, "hidden_size": 32}
    )
    return getattr(transformers, f"{kind}Model")(config)


DECODER = {"hidden_size": 8, "mlp_dim": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
DECODER |= {"iou_head_hidden_dim": 8, "iou_head_depth": 2}
TINY = {"sam": tiny_sam, "sam2": tiny_sam2}


def library():
    from camseg.base.compat import import_torchvision

    import_torchvision()
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    return transformers


def save(model, folder: Path, processor: str = "preprocessor_config.json") -> Path:
    model.save_pretrained(folder)
    content = {"image_mean": MEAN, "image_std": STD}
    content = {"image_processor": content} if processor == "processor_config.json" else content
    (folder / processor).write_text(json.dumps(content))
    return folder


@pytest.fixture(params=TINY)
def folder(request, tmp_path):
    transformers = library()
    torch.manual_seed(0)
    return save(TINY[request.param](transformers), tmp_path / request.param)


def test_a_tiny_network_refines(folder):
    image, trimap, mask = scene()
    sam = load_sam(folder)
    first, second = (sam.segment(image, trimap, mask) for _ in range(2))
    assert first.alpha.tobytes() == second.alpha.tobytes()
    assert first.alpha.shape == trimap.shape
    assert set(np.unique(first.alpha)) <= {0, 1}
    assert (first.alpha[trimap == FOREGROUND] == 1).all()
    assert (first.alpha[trimap == BACKGROUND] == 0).all()
    assert np.array_equal(sam(image, trimap), refine(image, trimap, "sam", weights=folder))
    assert not sam.network.model.training


def test_the_stage_knows_what_the_folder_holds(folder):
    settings = RefineSettings(method="sam", weights=folder)
    stage = RefineStage(settings=settings)
    assert stage.place == "thread"
    stage.setup("cpu")
    assert stage.identity()["weights_sha256"] == weights_hash(folder)
    before = weights_hash(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}))
    assert weights_hash(folder) != before


def test_the_processor_may_be_of_transformers_5(tmp_path):
    model = tiny_sam(library())
    network = weights.load_network(save(model, tmp_path, "processor_config.json"))
    assert (network.mean, network.std) == (tuple(MEAN), tuple(STD))
    assert (network.side, network.stretched) == (64, False)


def test_sam_2_as_it_is_published_for_videos_loads(tmp_path):
    transformers = library()
    if not hasattr(transformers, "Sam2VideoModel"):
        pytest.skip("this transformers has no Sam2VideoModel")
    model = tiny_sam2(transformers)
    save(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "sam2_video"}))
    assert weights.load_network(tmp_path).stretched


def test_inputs_are_those_of_transformers_own_processor(tmp_path):
    transformers = library()
    processor = pytest.importorskip("transformers.models.sam.image_processing_sam").SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )
    image = scene((48, 70))[0]
    expected = processor(image, return_tensors="pt")["pixel_values"]
    model = Scripted(64)
    network = SamNetwork(model=model, side=64, stretched=False, mean=tuple(MEAN), std=tuple(STD))
    Sam(network, torch.device("cpu"))._embeddings(image)
    assert torch.allclose(model.seen[0], expected, atol=0.02)  # one level of 255 is 0.017
    assert transformers.__name__ == "transformers"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), r"no preprocessor_config\.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no model\.safetensors; give"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            r"no model\.safetensors \(only pytorch_model\.bin, which is not read",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable as JSON"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "expected a JSON object, got list"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "vit"}'), "sam, sam2.*got 'vit'"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("{}"), "image_mean .* got None"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"damaged"), "not readable as weights of SamModel"),
    ],
)
def test_what_is_missing_or_damaged_is_named(spoil, message, tmp_path):
    folder = save(tiny_sam(library()), tmp_path / "sam")
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        open_refiner(RefineSettings(method="sam", weights=folder), "cpu")


def test_weights_that_are_not_whole_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save(tiny_sam(library()), tmp_path / "sam")
    tensors = load_file(folder / "model.safetensors")
    del tensors["mask_decoder.iou_token.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"1 parameters of SamModel are missing .*mask_decoder\.iou_token\.weight"
    ):
        load_sam(folder)


def test_a_file_and_a_folder_that_is_not_there_are_refused(tmp_path):
    (tmp_path / "sam.pth").touch()
    with pytest.raises(CheckpointError, match="is a file; expected a folder"):
        load_sam(tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match="no such folder"):
        load_sam(tmp_path / "nowhere")


def test_a_device_that_is_not_there_is_refused(folder):
    with pytest.raises(InputError, match="nonsense"):
        load_sam(folder, "nonsense")
