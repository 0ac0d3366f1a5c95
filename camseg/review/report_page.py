"""A report -> one HTML page that asks for nothing outside itself."""

import datetime
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from statistics import fmean
from typing import Any, Final

from camseg.review.charts import curves, histogram
from camseg.review.findings import MaskRow, Report

SORTS: Final[Mapping[str, str]] = {
    "quality": "lowest quality first",
    "-quality": "highest quality first",
    "score": "lowest score first",
    "area": "smallest first",
    "-area": "largest first",
    "dice": "lowest Dice first",
    "name": "by name",
}
"""The orders that the page offers, by the value of a card; "-" turns them round."""
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def report_page(report: Report) -> str:
    """The page, with its style, script and pictures in it."""
    title = f"Masks of {report.items.folder.resolve().name}"
    assets = files("camseg.review") / "assets"
    parts = [
        _overview(report),
        _charts(report),
        _masks(report),
        _network(report),
        _provenance(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{(assets / 'report.css').read_text(encoding='utf-8')}</style></head>"
        f'<body><a class="skip" href="#masks">To the masks</a><header><h1>{escape(title)}</h1></header>'
        f"<main>{''.join(parts)}</main>"
        f"<script>{(assets / 'report.js').read_text(encoding='utf-8')}</script></body></html>\n"
    )


def _overview(report: Report) -> str:
    rows = report.rows
    known = [row.item.record.quality for row in rows if row.item.record.quality is not None]
    dices = [row.dice for row in rows if row.dice is not None and row.item.record.empty is None]
    decisions = Counter(row.item.decision for row in rows if row.item.decision)
    facts: list[tuple[str, str]] = [
        ("masks", str(len(rows))),
        ("images", str(len({row.item.record.input for row in rows}))),
        ("without an object", str(sum(row.item.record.empty is not None for row in rows))),
        ("mean quality", _number(fmean(known) if known else None)),
    ]
    if dices:
        facts.append(("mean Dice of masks with an object", f"{_number(fmean(dices))} ({len(dices)} known)"))
    if report.risk is not None and report.risk.spearman is not None:
        facts.append(("Spearman's correlation of quality and Dice", _number(report.risk.spearman)))
    if decisions:
        facts.append(("a person's decisions", ", ".join(f"{n} {one}" for one, n in sorted(decisions.items()))))
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    remarks = "".join(f"<li>{escape(one)}</li>" for one in report.remarks)
    classes = _classes(rows)
    reasons = Counter(reason for row in rows for reason in row.item.reasons)
    told = _table(("what speaks against masks", "masks"), [(one, str(n)) for one, n in reasons.most_common(20)])
    return (
        f'<section aria-label="Overview"><dl class="facts">{tiles}</dl>'
        + (f'<ul class="remarks">{remarks}</ul>' if remarks else "")
        + f'<div class="side">{classes}{told if reasons else ""}</div></section>'
    )


def _classes(rows: Sequence[MaskRow]) -> str:
    named: dict[str, list[MaskRow]] = {}
    for row in rows:
        named.setdefault(row.item.record.class_name or "-", []).append(row)
    cells = []
    for name, own in sorted(named.items()):
        shares = [row.share for row in own if row.share]
        cells.append(
            (
                name,
                str(len(own)),
                str(sum(row.item.record.empty is not None for row in own)),
                _mean(row.item.record.quality for row in own),
                _mean(row.item.record.score for row in own),
                f"{100 * fmean(shares):.1f} %" if shares else "-",
            )
        )
    return _table(("class", "masks", "without object", "mean quality", "mean score", "mean area"), cells)


def _charts(report: Report) -> str:
    found = [row for row in report.rows if row.item.record.empty is None]
    qualities = [row.item.record.quality for row in report.rows if row.item.record.quality is not None]
    drawn = [histogram(qualities, "quality")]
    drawn.append(
        histogram([row.item.record.score for row in report.rows if row.item.record.score is not None], "score")
    )
    shares = [row.share for row in found if row.share is not None]
    high = max(shares, default=1.0)
    drawn.append(histogram(shares, "area, as a share of the image", high=math.ceil(20 * high) / 20 or 1.0))
    dices = [row.dice for row in found if row.dice is not None]
    if dices:
        drawn.append(histogram(dices, "Dice with what is known to be right"))
    if report.risk is not None:
        one = report.risk
        lines = [
            ("quality", one.coverage.tolist(), one.risk.tolist()),
            ("perfect", one.coverage.tolist(), one.perfect.tolist()),
            ("random", [0.0, 1.0], [one.random_area] * 2),
        ]
        words = (
            f"Area under the curve: {one.area:.3f} by quality, {one.perfect_area:.3f} in perfect order, "
            f"{one.random_area:.3f} in random order, over {report.judged} masks."
        )
        title = f"What is left to fear if only the best masks are kept. {words}"
        drawn.append(curves(lines, title, "share of masks kept", "mean of 1 - Dice", words))
    return f'<section aria-label="Charts"><h2>The set</h2><div class="charts">{"".join(drawn)}</div></section>'


def _masks(report: Report) -> str:
    by_id = {row.item.id: row for row in report.rows}
    shown = [by_id[one] for one in report.shown]
    classes = sorted({row.item.record.class_name or "-" for row in shown})
    reasons = [one for one, _ in Counter(reason for row in shown for reason in row.item.reasons).most_common()]
    decisions = sorted({row.item.decision or "unseen" for row in shown})
    sorts = "".join(f'<option value="{key}">{words}</option>' for key, words in SORTS.items())
    controls = (
        f'<label>Order <select id="order">{sorts}</select></label>'
        + _choice("class", "Class", classes)
        + _choice("reason", "Reason", reasons)
        + _choice("decision", "Decision", decisions)
        + '<label>Quality below <input id="below" type="number" min="0" max="1" step="0.05" value="1"></label>'
        + '<label>Name <input id="text" type="search" autocomplete="off"></label>'
    )
    worst = len(shown) - len(report.at_random)
    words = f"{worst} masks of the least quality, and {len(report.at_random)} of the others drawn at random."
    words += " Unknown qualities come first. All masks are in the JSON and CSV files beside this page."
    cards = "".join(_card(row, report.shown[row.item.id], row.item.id in report.at_random) for row in shown)
    return (
        f'<section id="masks" aria-label="Masks"><h2>Masks</h2><p>{words}</p>'
        f'<form class="controls" role="search" onsubmit="return false">{controls}'
        f'<output id="count" aria-live="polite">{len(shown)} shown</output></form>'
        f'<ul class="cards" id="cards">{cards}</ul></section>'
    )


def _card(row: MaskRow, picture: str, at_random: bool) -> str:
    item, record = row.item, row.item.record
    class_name, decision = record.class_name or "-", item.decision or "unseen"
    described = f"{record.input}, {class_name}: the mask drawn over the image"
    values = {
        "quality": _value(record.quality),
        "score": _value(record.score),
        "area": _value(row.share),
        "dice": _value(row.dice),
        "name": record.input,
        "class": class_name,
        "reasons": json.dumps(list(item.reasons), ensure_ascii=False),
        "decision": decision,
    }
    data = " ".join(f'data-{name}="{escape(value)}"' for name, value in values.items())
    numbers = [("quality", _number(record.quality)), ("score", _number(record.score))]
    numbers += [("area", "-" if row.share is None else f"{100 * row.share:.1f} %")]
    numbers += [] if row.dice is None else [("Dice", _number(row.dice))]
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in numbers)
    marks: list[str] = [item.decision] if item.decision else []
    marks += ["drawn at random"] if at_random else []
    marks += [record.empty] if record.empty else []
    told = "".join(f"<li>{escape(one)}</li>" for one in dict.fromkeys([*marks, *item.reasons]))
    return (
        f'<li class="card" {data}><img decoding="async" src="{picture}" alt="{escape(described)}">'
        f'<h3>{escape(record.input)}</h3><p class="class">{escape(class_name)}</p><dl>{facts}</dl>'
        f"<ul>{told}</ul></li>"
    )


def _network(report: Report) -> str:
    if report.network is None:
        return ""
    metrics = report.network
    facts = [
        (name.replace("_", " "), _number(value))
        for name in ("accuracy", "macro_f1", "images", "val_images", "train_images", "mean_dice_per_image")
        if isinstance(value := metrics.get(name), int | float)
    ]
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in facts)
    drawn = "".join(
        f'<figure><img src="{picture}" alt="{escape(title)}, plotted"><figcaption>{escape(title)}</figcaption></figure>'
        for title, picture in report.pictures.items()
    )
    return (
        '<section aria-label="The network"><h2>The network on its validation images</h2>'
        f'<dl class="facts">{tiles}</dl><div class="side">{_confusion(metrics)}</div>'
        f'<div class="charts">{drawn}</div></section>'
    )


def _confusion(metrics: Mapping[str, Any]) -> str:
    table, classes = metrics.get("confusion"), metrics.get("classes")
    if not isinstance(table, list) or not isinstance(classes, dict) or not table or isinstance(table[0][0], list):
        return ""
    rows = [(name, *map(str, counts)) for name, counts in zip(classes, table, strict=False)]
    return _table(("true class, below; predicted, across", *classes), rows)


def _provenance(report: Report) -> str:
    run = report.run
    versions = [(name, str(version)) for name, version in dict(run.get("versions", {})).items()]
    identity = {"command": run.get("command"), "seconds": run.get("seconds", {}).get("total")}
    given = [(name, _text(value)) for name, value in [*identity.items(), *run["settings"].items()]]
    made = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    hashes = [(name, str(value)) for name, value in run.get("identity", {}).items() if _is_hash(value)]
    return (
        f'<section aria-label="Provenance"><h2>Where this comes from</h2><p>{escape(str(report.items.folder))}; '
        f'this page was written on {made}.</p><div class="side">'
        + _table(("setting", "value"), given)
        + _table(("library", "version"), versions)
        + (_table(("what", "SHA-256"), hashes) if hashes else "")
        + "</div></section>"
    )


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _choice(name: str, label: str, values: Iterable[str]) -> str:
    options = "".join(f'<option value="{escape(one)}">{escape(one)}</option>' for one in values)
    return f'<label>{label} <select id="{name}"><option value="">all</option>{options}</select></label>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(one)}</td>" for one in rest)}</tr>'
        for first, *rest in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return _number(fmean(known) if known else None)


def _number(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _value(value: float | None) -> str:
    """As the page sorts by it: what is unknown comes first."""
    return "-1" if value is None else f"{value:.6f}"
