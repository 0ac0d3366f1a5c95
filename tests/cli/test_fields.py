"""Options out of settings: what they are called in messages, and what is common to all of them."""

import inspect
import json

import numpy as np
import pytest

from camseg.base.errors import OtherSettingsError, OutputError
from camseg.cli import commands, fields
from camseg.data.images import write_image
from camseg.label.settings import ClassifierOptions, LabelSettings


def test_a_run_of_other_settings_is_refused_by_the_options_names(call, make_classifier, make_images, tmp_path):
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
        "--threshold max:0.75 -> 0.5",
        "--propagation par -> none",
    ):
        assert words in err


def test_a_setting_that_is_no_option_keeps_its_words():
    @fields.command
    def run(settings: LabelSettings, classifier: ClassifierOptions) -> None:
        raise OtherSettingsError("out", {"inputs": ("a", "b"), "read.cam run": ("1", "2"), "cams.flip": (True, False)})

    with pytest.raises(OutputError, match=r"\(inputs a -> b; read.cam run 1 -> 2; --flip on -> off\)"):
        run(classifier="run")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with one map, and another folder to work in."""
    write_image(tmp_path / "home/cams/a.png", np.tile(np.arange(8, dtype=np.uint8) * 30, (8, 1)))
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_paths_at_home_are_found_where_no_shell_expands_them(call, home):
    (home / "t.json").write_text(json.dumps({"threshold": "0.5"}))
    code, _, err = call("masks", "~/cams", "--out=~/masks", "--config=~/t.json")
    assert (code, err.count("home/masks")) == (0, 1)
    assert (home / "masks/a.png").is_file()
    # A file among the options, too, and an option whose text may be a file.
    (home / "o.json").write_text(json.dumps({"cams": "~/cams", "sure": "0.9"}))
    assert call("trimap", "~/masks", "--out", "~/trimaps", "--config", "~/o.json")[0] == 0
    assert json.loads((home / "trimaps/run.json").read_text())["settings"]["cams"] == str(home / "cams")
    code, _, err = call("masks", "~/cams", "--out=~/others", "--threshold=~/nowhere.json")
    assert code == 2
    assert str(home / "nowhere.json") in err
    assert not list((home.parent / "work").iterdir())


def test_a_folder_whose_name_begins_with_a_tilde_is_that_folder(call, home):
    assert call("masks", home / "cams", "--threshold", "0.5", "--out", "~nobody-of-this-name")[0] == 0
    assert (home.parent / "work/~nobody-of-this-name/a.png").is_file()


def test_every_command_with_a_path_takes_it_so():
    for words, callback in commands():
        kinds = [parameter.annotation for parameter in inspect.signature(callback).parameters.values()]
        if any("Path" in str(kind) for kind in kinds):
            assert callback.__qualname__ == "command.<locals>.run", words
