import unicodedata

import pytest

from camseg.data.labels import as_classes, label_key, looks_negative, near_pairs, negative_hint, spelled

NFD = unicodedata.normalize("NFD", "Prüfling")


def test_one_spelling_for_each_label():
    assert spelled(f"  {NFD} \t neu ") == "Prüfling neu"
    assert label_key("No_Tumour") == label_key("no  tumour") == label_key("NO-TUMOUR") != label_key("notumour")
    assert label_key("_") == "_"
    assert near_pairs(["ok", "OK", "bad", "no-go", "no_go", "no go"]) == [("OK", "ok"), ("no go", "no-go", "no_go")]


def test_the_classes_that_labels_mean():
    classes = ["Prüfling", "ok", "US", "us"]
    labels = [NFD, "OK", "Us", "us", "US", "else"]
    assert as_classes(labels, classes) == {NFD: "Prüfling", "OK": "ok", "us": "us", "US": "US"}
    assert as_classes(["Prüfling"], [NFD]) == {"Prüfling": NFD}  # of a classifier trained before


@pytest.mark.parametrize(
    "name",
    ["clean", "Normal", "no_tumour", "No Finding", "background", "negative", "healthy", "good", "OK", "defect-free"],
)
def test_classes_named_like_background(name):
    assert looks_negative(name)
    hint = negative_hint([name, "rust"], [])
    assert hint is not None
    assert f"--negative {name if ' ' not in name else repr(name)}" in hint
    assert negative_hint([name, "rust"], [name]) is None
    assert negative_hint([name, "rust"], ["rust"]) is None


def test_other_classes_give_no_hint():
    for name in ("rust", "northern", "abnormal", "nodule", "goods", "noise"):
        assert not looks_negative(name)
    assert negative_hint(["cat", "dog"], []) is None
    assert negative_hint(["ok", "good"], []) is None  # which of them?
