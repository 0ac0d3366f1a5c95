"""Options out of settings: what they are called in messages, and what is common to all of them."""

import pytest

from camseg.base.errors import OtherSettingsError, OutputError
from camseg.cli import fields
from camseg.label.settings import ClassifierOptions, LabelSettings


def test_a_run_of_other_settings_is_refused_by_the_options_names(call, make_classifier, make_images, tmp_path):
    from camseg.data.images import write_image

    make_classifier(negative=["none"]).save(tmp_path / "run")
    for number, image in enumerate(make_images((40, 60), (64, 64))):
        write_image(tmp_path / f"in/{number}.png", image)
    label = ("label", tmp_path / "in", "-c", tmp_path / "run", "--scales", "1", "--no-flip", "--refiner", "none")
    label += ("--out", tmp_path / "out")
    assert call(*label)[0] == 0
    code, _, err = call(*label, "--scales", "1,2", "--target", "cat", "--threshold", "0.5", "--propagation", "none")
    assert code == 2
    for words in (
        "--scales 1 -> 1,2",
        "--target none -> cat",
        "--threshold max:0.7 -> 0.5",
        "--propagation par -> none",
    ):
        assert words in err


def test_a_setting_that_is_no_option_keeps_its_words():
    @fields.command
    def run(settings: LabelSettings, classifier: ClassifierOptions) -> None:
        raise OtherSettingsError("out", {"inputs": ("a", "b"), "read.cam run": ("1", "2"), "cams.flip": (True, False)})

    with pytest.raises(OutputError, match=r"\(inputs a -> b; read.cam run 1 -> 2; --flip on -> off\)"):
        run(classifier="run")
