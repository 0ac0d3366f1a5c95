import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

import camseg
from camseg.base.errors import CheckpointError, InputError
from camseg.segment.checkpoint import load_segmenter
from camseg.segment.settings import ViewSettings


@pytest.fixture
def image(make_images):
    return make_images((40, 56))[0]


def test_probabilities_are_of_each_class_at_the_images_size(make_segmenter, image):
    segmenter = make_segmenter(classes=["a", "b"])
    found = segmenter.predict(image)
    assert found.shape == (2, 40, 56)
    assert found.dtype == np.float32
    assert 0 <= found.min() < found.max() <= 1
    with torch.inference_mode():
        logits = segmenter.model(segmenter.preprocess([image]))
    assert segmenter.model.network.segmentation_head[0].out_channels == 2
    wanted = torch.nn.functional.interpolate(logits.sigmoid(), (40, 56), mode="bilinear")[0]
    assert found == pytest.approx(wanted.numpy(), abs=1e-5)


def test_exclusive_classes_share_with_the_background(make_segmenter, image):
    segmenter = make_segmenter(classes=["a", "b"], multi_label=False)
    found = segmenter.predict(image)
    assert found.shape == (2, 40, 56)
    with torch.inference_mode():
        all_three = segmenter.model(segmenter.preprocess([image])).softmax(dim=1)
    assert all_three.shape[1] == 3
    assert found.sum(axis=0).max() < 1
    assert [segmenter.channel(name) for name in ("a", "b")] == [1, 2]
    assert make_segmenter(classes=["a", "b"]).channel("b") == 1


def test_the_temperature_divides_logits(make_segmenter, image):
    segmenter = make_segmenter(resize="pad")
    hot = replace(segmenter, temperature=4.0)
    squares = torch.from_numpy(segmenter.to_input(image)[None])
    cold_grid, hot_grid = segmenter.grids(squares), hot.grids(squares)
    assert torch.logit(hot_grid, 1e-6) == pytest.approx(torch.logit(cold_grid, 1e-6) / 4, abs=1e-3)


def test_flipping_takes_the_mean_with_the_mirrored_image(make_segmenter, image):
    segmenter = make_segmenter()
    plain, mirrored = segmenter.predict(image), segmenter.predict(np.ascontiguousarray(image[:, ::-1]))
    both = segmenter.predict(image, ViewSettings(flip=True))
    assert both == pytest.approx((plain + mirrored[..., ::-1]) / 2, abs=1e-5)
    assert not np.allclose(plain, mirrored[..., ::-1])


def test_tiles_are_seen_by_themselves(make_segmenter, make_images):
    segmenter, (image,) = make_segmenter(), make_images((40, 100))
    found = segmenter.predict(image, ViewSettings(tile=40), batch_size=2)
    assert found.shape == (1, 40, 100)
    # Beyond what the second tile covers the first decides alone.
    assert found[..., :25] == pytest.approx(segmenter.predict(image[:, :40])[..., :25], abs=1e-5)
    assert not np.allclose(found, segmenter.predict(image))


def test_predicting_leaves_the_network_as_it_was(make_segmenter, image):
    segmenter = make_segmenter()
    segmenter.model.train()
    before = {name: value.clone() for name, value in segmenter.model.state_dict().items()}
    segmenter.predict(image)
    assert segmenter.model.training
    assert all(torch.equal(value, before[name]) for name, value in segmenter.model.state_dict().items())


@pytest.mark.parametrize("multi_label", [True, False])
def test_a_run_folder_holds_all_of_it(make_segmenter, image, tmp_path, multi_label):
    segmenter = make_segmenter(classes=["a", "b"], multi_label=multi_label, negative=["clean"], resize="pad")
    segmenter.save(tmp_path)
    again = camseg.load_segmenter(tmp_path)
    assert again.fingerprint() == segmenter.fingerprint()
    assert again.run == str(tmp_path)
    assert again.negative == ("clean",)
    assert np.array_equal(again.predict(image), segmenter.predict(image))
    assert pickle.loads(pickle.dumps(segmenter)).fingerprint() == segmenter.fingerprint()
    assert json.loads((tmp_path / "segmenter.json").read_text())["arch"] == "linknet+test_resnet"


def test_what_cannot_be_a_segmenter(make_segmenter, tiny_classifier, tmp_path):
    with pytest.raises(InputError, match="background is what belongs to none"):
        make_segmenter(classes=["background", "a"])
    with pytest.raises(InputError, match="the segmenter has no class 'b'; it has object"):
        make_segmenter().channel("b")
    with pytest.raises(CheckpointError, match="expected the folder of a segmenter run"):
        load_segmenter(tmp_path / "none")
    tiny_classifier.save(tmp_path / "classifier")
    with pytest.raises(CheckpointError, match=r"segmenter\.json: cannot be read"):
        load_segmenter(tmp_path / "classifier")
    make_segmenter().save(tmp_path / "run")
    path = tmp_path / "run/segmenter.json"
    path.write_text(path.read_text().replace('"object"', '"object", "other"'))
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be loaded into linknet\+test_resnet"):
        load_segmenter(tmp_path / "run")
