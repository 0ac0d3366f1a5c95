"""The report: one file that asks for nothing outside itself, whatever names it tells of."""

import csv
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from camseg.base.errors import InputError, OutputError
from camseg.data.images import read_mask, write_mask
from camseg.exchange.corrections import Corrector
from camseg.review.report import report_folder
from camseg.review.settings import ReportSettings


class Page(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_all_masks_are_told_of_and_the_worst_are_shown_first(make_out, tmp_path):
    out = make_out()
    found = report_folder(
        out, tmp_path / "report.html", ReportSettings(worst=2, random=1), masks=tmp_path / "truth", images=None
    )
    page = Page((tmp_path / "report.html").read_text())
    cards = [one for one in page.all("li") if one.get("class") == "card"]
    assert [card["data-name"] for card in cards[:2]] == ["f.png", "e.png"]
    assert len(cards) == len(found.shown) == 3
    assert len(found.at_random) == 1
    told = json.loads((tmp_path / "report.json").read_text())
    assert len(told["masks"]) == 6
    assert told["masks"][0]["dice"] == 1
    assert told["masks"][5]["dice"] < 0.8
    assert told["risk_coverage"]["spearman"] == pytest.approx(1)
    assert told["risk_coverage"]["area"] == pytest.approx(told["risk_coverage"]["perfect_area"])
    rows = list(csv.DictReader((tmp_path / "report.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [one["image"] for one in told["masks"]]
    assert rows[1]["reasons"] == "a low class score"


def test_the_page_needs_nothing_beside_it(make_out, tmp_path):
    report_folder(make_out(), tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    sources = [one[key] for _, one in page.elements for key in ("src", "href") if key in one]
    assert len(sources) > 6
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert all(image["alt"] for image in page.all("img"))
    assert all(picture["aria-label"] for picture in page.all("svg"))
    assert page.all("html")[0]["lang"] == "en"
    assert "default-src 'none'" in page.all("meta")[1]["content"]


def test_hostile_names_stay_names(make_out, tmp_path):
    name = "<img src=x onerror=alert(1)>'\"&"
    out = make_out(name)
    report_folder(out, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert all("onerror" not in one for _, one in page.elements)
    (card,) = (one for one in page.all("li") if one.get("class") == "card")
    assert card["data-name"] == f"{name}.png"


def test_what_cannot_be_read_is_said_and_the_rest_told(make_out, tmp_path):
    out = make_out()
    (out / "masks/a.png").write_bytes(b"no image")
    write_mask(tmp_path / "truth/b.png", np.ones((3, 3), bool))
    (tmp_path / "images/d.png").unlink()
    found = report_folder(out, tmp_path / "report.html", masks=tmp_path / "truth")
    assert len(found.remarks) >= 3
    assert len(found.rows) == 6
    assert len(found.shown) == 5
    page = Page((tmp_path / "report.html").read_text())
    assert "size of" in page.text


def test_what_is_no_report_or_no_folder_of_masks(make_out, tmp_path):
    out = make_out()
    with pytest.raises(InputError, match=r"report\.html"):
        report_folder(out, tmp_path / "report.pdf")
    with pytest.raises(InputError, match="no manifest of masks"):
        report_folder(tmp_path / "images", tmp_path / "report.html")
    (tmp_path / "others").mkdir()
    write_mask(tmp_path / "others/z.png", np.ones((3, 3), bool))
    with pytest.raises(InputError, match="no mask in"):
        report_folder(out, tmp_path / "report.html", masks=tmp_path / "others")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        report_folder(out, tmp_path / "file/report.html")


def test_only_an_earlier_report_is_replaced(make_out, tmp_path):
    out = make_out()
    run = (out / "run.json").read_bytes()
    with pytest.raises(OutputError, match=r"run\.json would be written beside run\.html, and is of no report"):
        report_folder(out, out / "run.html")
    assert (out / "run.json").read_bytes() == run
    (tmp_path / "list.csv").write_text("image,label\na.png,cat\n")
    with pytest.raises(OutputError, match=r"list\.csv would be written beside"):
        report_folder(out, tmp_path / "list.html")
    for _ in range(2):
        report_folder(out, tmp_path / "report.html")


def test_what_people_corrected_is_told(make_out, tmp_path):
    out = make_out()
    taker = Corrector(out)
    taker.correct("a.png", "accepted", tool="test")
    taker.correct("b.png", "rejected", tool="test")
    taker.correct("d.png", "empty", tool="test")
    taker.correct("e.png", mask=read_mask(tmp_path / "truth/e.png"), tool="test")
    found = report_folder(out, tmp_path / "report.html")
    told = {row.item.record.name: (row.item.decision, row.dice, row.dice_from) for row in found.rows}
    assert told["a"] == ("accepted", 1.0, "correction")
    assert told["b"] == ("rejected", 0.0, "correction")
    assert told["d"][1] == 0
    assert told["e"] == ("edited", pytest.approx(0.75), "correction")
    assert told["f"] == (None, None, None)
    assert found.risk is None
    write_mask(out / "masks/a.png", np.ones((32, 40), bool))
    found = report_folder(out, tmp_path / "report.html")
    assert found.rows[0].item.decision is None
    assert "other masks" in found.remarks[0]
