"""The page: whole, self-contained, escaped, and with the numbers of report.json and no others."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mtl_speech.report.figures import MAX_SHOWN
from mtl_speech.report.findings import Details
from mtl_speech.report.page import confusion_matrix, curve_ticks, log_scale, phoneme_rows, render, shade
from mtl_speech.report.results import Experiment, report_data
from mtl_speech.scoring.metrics import score
from tests.report_pages import EVIL, example_details, example_tokens, scores_of, write_example

NUMBER = r"\d(?:[\d.,]*\d)?"
VOID = {"meta", "link", "br", "image", "line", "rect", "path", "circle", "polyline", "colgroup"}


class Page(HTMLParser):
    """The elements of a page: (tag, attributes), the texts of its table cells, and whether all tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        elif tag == "br":
            self.handle_data(" ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example(tmp_path_factory.mktemp("page")).parent


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


@pytest.fixture(scope="module")
def data(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def test_the_page_refers_to_nothing_outside_itself(text: str, page: Page) -> None:
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
                assert re.match(r"data:|#", value or ""), f"<{tag} {name}={value!r}>"
    assert not re.search(r"url\(|@import|https?://", text)
    policy = next(a["content"] or "" for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_what_comes_from_data_is_escaped_everywhere(text: str) -> None:
    assert text.count("<script>") == 1
    assert text.count("&lt;script&gt;") >= 8  # label, reason, strategy, system, note, command, settings ...


def numbers(value: Any) -> set[str]:
    """Every way in which the page may write the numbers of some plain data."""
    if isinstance(value, dict):
        return set().union(*map(numbers, [*value.values(), *value])) if value else set()
    if isinstance(value, list):
        return set().union(*map(numbers, value)) if value else set()
    if isinstance(value, bool) or value is None:
        return set()
    if isinstance(value, str):
        return set(re.findall(NUMBER, value))
    forms = [f"{value:,.0f}", f"{value:.2g}", f"{100 * value:.0f}", f"{100 * value:.1f}"]
    return {*forms, *(f"{abs(value):.{digits}f}" for digits in (0, 1, 2, 3))}


def test_every_number_of_the_tables_is_in_the_json(page: Page, data: dict[str, Any]) -> None:
    known = numbers(data) | {"95", "256"}  # "95 % interval", "SHA-256"
    shown = {n for cell in page.cells for n in re.findall(NUMBER, cell)}
    assert len(shown) > 150
    assert shown - known == set()


def test_the_phoneme_table_has_every_phoneme_with_its_figures(text: str, data: dict[str, Any]) -> None:
    table = text[text.index("<table") : text.index("</table>")]
    rows = [
        re.sub(r"\s+", " ", re.sub(r"<svg.*?</svg>|<[^>]+>", " ", row, flags=re.DOTALL))
        for row in table.split("<tr")[2:]
    ]
    found = {row.split(">", 1)[1].split()[0]: row for row in rows}
    for p in data["scores"]["phonemes"]:
        low, high = p["f1_ci95"]
        row = found[p["phoneme"]]
        assert (
            f" {p['f1']:.3f} {low:.3f} to {high:.3f} {p['n']} {p['n_train']} {p['precision']:.3f} {p['recall']:.3f} "
            in row
        )
        assert ("unreliable" in row) is not p["reliable"]
        assert ("zero-shot" in row) is (p["phoneme"] == "p")
    assert "not scored" in found["ɢ"] and "–" in found["ɢ"]
    assert 'Not scored, no example left to test on: <span lang="und-fonipa">ɢ</span>.' in text


def test_rows_and_matrix_are_ordered_and_grouped_by_articulation(data: dict[str, Any]) -> None:
    rows = phoneme_rows(data)
    assert [row["order"] for row in rows] == list(range(len(rows)))
    matrix = confusion_matrix(data)
    names = [group["name"] for group in matrix["groups"]]
    assert names[:2] == ["labial", "dental/alveolar"] and names[-2:] == ["close vowel", "mid vowel"]
    assert len(names) == len(set(names))
    assert sum(group["n"] for group in matrix["groups"]) == len(matrix["labels"]) == len(matrix["rows"])
    labels, counts = (data["scores"]["confusion"][key] for key in ("labels", "counts"))
    for row in matrix["rows"]:
        expected = counts[labels.index(row["phoneme"])]
        assert [cell["n"] for cell in row["cells"]] == [expected[labels.index(other)] for other in matrix["labels"]]
        assert [cell["right"] for cell in row["cells"]] == [other == row["phoneme"] for other in matrix["labels"]]


def test_a_page_of_very_many_phonemes_stays_small() -> None:
    names = [c + mark for c in "pbtdkɡmnszfvljw" for mark in ("", "ː", "ʰ", "ʷ", "ʲ", "ˠ", "ˤ", "ʷː", "ʲː", "ʰː")]
    names += [v + mark for v in "iyɨʉɯueøɘɵɤoəɛœɜʌɔæaɑ" for mark in ("", "ː", "\u0303", "\u0330", "\u0324", "\u0303ː")]
    true = [name for name in names for _ in range(4)]
    predicted = [names[(i + 7 * (k % 2)) % len(names)] for i in range(len(names)) for k in range(4)]
    scores = score(true, predicted, n_bootstrap=5)
    found = report_data(Experiment(scores, {}, "mtl-speech evaluate"))
    text = render(found)
    Page(text)
    assert len(names) > 2 * MAX_SHOWN and len(text) < 500_000
    assert f"The {MAX_SHOWN} of {len(names)} phonemes with the most errors" in text
    for row in confusion_matrix(found)["rows"]:
        assert row["n"] == 4, "tokens of the whole row"
    assert len(phoneme_rows(found)) == len(names)


def test_tables_and_pictures_can_be_read_aloud(text: str, page: Page) -> None:
    assert text.count("<caption>") == len(page.of("table")) >= 8
    assert all(th.get("scope") in ("col", "row", "colgroup", "rowgroup") for th in page.of("th"))
    for svg in page.of("svg"):
        label = svg.get("aria-labelledby")
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and f'<title id="{label}">' in text)
    assert all(audio.get("aria-label") for audio in page.of("audio"))
    scrolls = [div for div in page.of("div") if div.get("class") == "scroll"]
    assert all(div["role"] == "region" and div["tabindex"] == "0" and div["aria-label"] for div in scrolls)
    assert len({div["aria-label"] for div in scrolls}) == len(scrolls) == len(page.of("table"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.of("a")} <= {f"#{name}" for name in ids}
    assert page.of("html") == [{"lang": "en"}]
    assert all(len(page.of(tag)) == 1 for tag in ("main", "nav", "header", "footer"))
    assert '<span lang="und-fonipa">t͡ʃ</span>' in text


def test_clips_are_in_the_page_only_where_they_were_asked_for(text: str, page: Page) -> None:
    assert len(page.of("audio")) == 4 and all(a["src"].startswith("data:audio/flac;base64,") for a in page.of("audio"))  # type: ignore[union-attr]
    assert "3 more were left out" in text
    tokens = example_tokens()
    details = replace(example_details(tokens), clips=None)
    without = render(report_data(Experiment(scores_of(tokens), {}, "", details=details)))
    assert "<audio" not in without and "<image" not in without
    assert "--clips" in without


def test_a_page_of_scores_alone_says_what_was_not_measured() -> None:
    bare = render(report_data(Experiment(score(["p", "a"], ["p", "p"], n_bootstrap=5), {}, "x", details=Details())))
    Page(bare)
    for text in ("No curriculum ran", "Not part of this experiment", "Not measured", "nothing is learned when"):
        assert text in bare
    assert "synthetic" not in bare


def test_the_curriculum_and_a_changed_base_are_told_as_they_are(text: str) -> None:
    assert "tasks were drawn from the phonemes that had been hardest" in text
    assert "gives back the base model ‘english’ bit for bit" in text
    tokens = example_tokens()
    details = example_details(tokens)
    assert details.base is not None
    off = replace(details, curriculum=False, base=replace(details.base, sha256_after="cd" * 32))
    other = render(report_data(Experiment(scores_of(tokens), {}, "", details=off)))
    assert "The curriculum was off" in other and "this is a fault" in other and "bit for bit" not in other


def test_the_curve_says_when_the_experiment_was_scored_on_more_tokens(text: str) -> None:
    assert "it had no example of among them" not in text
    tokens = example_tokens()
    details = example_details(tokens)
    assert details.curve is not None
    fewer = replace(details, curve=replace(details.curve, n=len(tokens) - 5))
    other = render(report_data(Experiment(scores_of(tokens), {}, "", details=fewer)))
    assert f", over all {len(tokens)} test tokens, those of phonemes that it had no example of among them" in other


def test_the_same_report_gives_the_same_page(tmp_path: Path, text: str) -> None:
    assert write_example(tmp_path).read_text(encoding="utf-8") == text
    assert EVIL not in text


def test_scales_and_shades() -> None:
    assert [log_scale(k, 1, 100, 0.0, 10.0) for k in (1, 10, 100)] == [0.0, 5.0, 10.0]
    assert curve_ticks(0.31, 0.68) == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert curve_ticks(1.0, 1.0) == [0.99, 1.0] and curve_ticks(0.0, 0.0) == [0.0, 0.01]
    assert [shade(share) for share in (0.0, 0.001, 0.25, 1.0)] == [0, 1, 4, 6]
