"""The pictures: legible sizes, every label and number drawn, nothing blank."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from mtl_speech.phonology.phonemes import articulation_order
from mtl_speech.report.figures import (
    MAX_SHOWN,
    ablation_figure,
    cell_colours,
    confusion_figure,
    drawable,
    most_confused,
    png,
)
from mtl_speech.scoring.bootstrap import Difference
from mtl_speech.scoring.metrics import AblationRow, NotScored, Scores, score

CONSONANTS = (
    "p pʰ b m f t̪ t̪ʰ t̪ː d̪ t n s z ɾ l t͡ʃ t͡ʃʰ d͡ʒ d͡ʒː ʃ ʈ ʈʰ ɖ ɳ ɽ j k kʰ kː ɡ ŋ x ɦ ʔ q χ ɓ ɗ ʛ ǃ tʼ kʷ n̥ ʙ".split()
)
VOWELS = "i ĩ ɪ u ũ ʊ e ẽ o õ ə ə̃ ɛ ɔ a ɑ ɑ̃ ɯ y ø".split()


def scores(n_classes: int, n_tokens: int = 500) -> Scores:
    """Scores of skewed random data, with mistakes that go to neighbours."""
    phonemes = CONSONANTS[: round(n_classes * 0.7)] + VOWELS[: n_classes - round(n_classes * 0.7)]
    rng = np.random.default_rng(n_classes)
    true = (n_classes * rng.random(n_tokens) ** 1.5).astype(int)
    predicted = np.where(rng.random(n_tokens) < 0.7, true, (true + rng.integers(1, 5, size=n_tokens)) % n_classes)
    names = [[phonemes[i] for i in indices] for indices in (true, predicted)]
    return score(*names, not_scored=[NotScored("ɢ", 1, "fewer than K + 1 = 6 examples")], n_bootstrap=50)


def rows() -> list[AblationRow]:
    gain = Difference(0.159, (0.13, 0.19), 900)
    return [
        AblationRow("baseline", 0.412, (0.385, 0.441), 0.53, (0.51, 0.55), None, 12_345, 31.0),
        AblationRow("+ meta-transfer", 0.571, (0.54, 0.6), 0.66, (0.64, 0.68), gain, 45_678, 310.0),
    ]


def pixels(data: bytes) -> np.ndarray:
    """A PNG as grey values, (height, width), of 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("n_classes", [2, 12, 60])
def test_the_confusion_picture_is_legible_at_any_size(n_classes: int) -> None:
    image = pixels(png(confusion_figure(scores(n_classes))))
    assert 40 * n_classes + 200 < min(image.shape) < max(image.shape) < 80 * n_classes + 1100
    assert (image < 100).mean() > 0.005  # there is ink
    assert (image > 250).mean() > 0.3  # and paper
    assert all(len(np.unique(part)) > 20 for part in np.array_split(image, 3)), "a third of the picture is blank"


def test_labels_stand_in_articulatory_order_with_every_count() -> None:
    found = scores(40)
    (axes,) = confusion_figure(found).axes
    expected = articulation_order(found.labels)
    assert expected != sorted(expected)
    for axis in (axes.xaxis, axes.yaxis):  # on both sides each
        assert [tick.label1.get_text() for tick in axis.get_major_ticks()] == expected
        assert all(tick.label1.get_visible() and tick.label2.get_visible() for tick in axis.get_major_ticks())
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted phoneme", "true phoneme")
    drawn = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axes.texts[:-1]}
    places = [found.labels.index(label) for label in expected]
    counts = found.confusion[np.ix_(places, places)]
    for row, column in np.argwhere(counts):
        assert drawn[row, column] == str(counts[row, column])


def test_of_very_many_phonemes_those_with_the_most_errors_are_drawn() -> None:
    names = [letter + marks for letter in CONSONANTS[:30] for marks in ("", "ʷ", "ʲ", "ˠ", "ˤ", "ʷː", "ʲː", "ˠː")]
    rng = np.random.default_rng(0)
    true = np.arange(3 * len(names)) % len(names)
    predicted = np.where(true % 2 == 0, (true + 2 * rng.integers(1, 9, size=len(true))) % len(names), true)
    assert len(names) > 2 * MAX_SHOWN
    found = score([names[i] for i in true], [names[i] for i in predicted], n_bootstrap=5)
    shown = most_confused(found.labels, found.confusion)
    assert len(shown) == MAX_SHOWN and shown == articulation_order(shown)
    errors = {p.phoneme: p.n for p in found.phonemes if p.f1 < 1}
    assert set(shown) <= set(errors), "phonemes without an error are left out first"
    (axes,) = confusion_figure(found).axes
    assert [tick.label1.get_text() for tick in axes.yaxis.get_major_ticks()] == [drawable(label) for label in shown]
    assert f"The {MAX_SHOWN} of {len(found.labels)} phonemes with the most errors" in texts(axes)[-1].replace("\n", " ")
    # The shade is the share of all tokens of the row, also of those in columns that are not drawn.
    places = [found.labels.index(label) for label in shown]
    drawn, whole = axes.collections[0].get_array(), cell_colours(found.confusion, found.confusion.sum(1))
    np.testing.assert_array_equal(drawn, whole[np.ix_(places, places)])
    few = score(["p", "t"], ["p", "p"], n_bootstrap=5)
    assert most_confused(few.labels, few.confusion) == ["p", "t"]


def test_right_is_blue_confused_orange_and_more_of_a_row_darker() -> None:
    counts = np.array([[8, 2, 0], [1, 9, 90], [0, 0, 0]])
    colours = cell_colours(counts, counts.sum(1))
    red, blue = colours[..., 0], colours[..., 2]
    assert (blue[[0, 1], [0, 1]] > red[[0, 1], [0, 1]]).all()
    assert (red[[0, 1, 1], [1, 0, 2]] > blue[[0, 1, 1], [1, 0, 2]]).all()
    assert colours[0, 0, :3].sum() < colours[1, 1, :3].sum()  # 8 of 10 against 9 of 100
    assert colours[1, 2, :3].sum() < colours[0, 1, :3].sum() < colours[1, 0, :3].sum()
    assert colours[0, 2].tolist() == [1, 1, 1, 1]
    assert (colours[2] == colours[2, 0]).all()
    assert colours[2, 0, 0] < 1
    (axes,) = confusion_figure(score(["p", "p", "s"], ["p", "p", "p"], n_bootstrap=5)).axes
    np.testing.assert_array_equal(
        axes.collections[0].get_array(), cell_colours(np.array([[2, 0], [1, 0]]), np.array([2, 1]))
    )
    assert axes.get_ylim() == (1.5, -0.5)  # the first row on top


def test_title_and_caption_tell_what_a_reader_must_know() -> None:
    found = score(["p"] * 3 + ["a"] * 6, ["p", "t", "p"] + ["a"] * 6, not_scored=[NotScored("ɢ", 1, "too few")])
    (axes,) = confusion_figure(found, "synthetic speech").axes
    title = axes.get_title(loc="left")
    assert "synthetic speech" in title
    assert "2 phonemes, 9 test tokens, macro-F1 0.900" in title
    caption = texts(axes)[-1].replace("\n", " ")
    assert "Not scored, too few examples: ɢ." in caption
    assert "fewer than 5 tokens" in caption
    assert "Grey rows: predicted, but not among the test tokens." in caption
    plain = confusion_figure(score(["p"] * 5, ["p"] * 5)).axes[0]
    assert "Grey" not in texts(plain)[-1]
    assert "(" not in plain.get_title(loc="left")


def test_the_ablation_picture_shows_every_system_and_gain() -> None:
    figure = ablation_figure(rows(), "synthetic speech")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["baseline", "+ meta-transfer"]
    assert texts(axes) == ["0.412", "0.530", "0.571   gain +0.159 [+0.130, +0.190]", "0.660"]
    assert [bar.get_width() for bar in axes.patches] == [0.412, 0.53, 0.571, 0.66]
    assert axes.get_title(loc="left") == "Ablation (synthetic speech)"
    image = pixels(png(figure))
    assert 400 < image.shape[0] < 900
    assert 1200 < image.shape[1] < 2000
    assert (image < 100).mean() > 0.05


def test_pictures_come_out_the_same_twice() -> None:
    found = score(["p", "a"], ["p", "p"], n_bootstrap=5)
    assert png(confusion_figure(found)) == png(confusion_figure(found))


def test_characters_that_the_font_lacks_are_written_out() -> None:
    ipa = (
        "".join(CONSONANTS + VOWELS)
        + "ʘǀǁǂɕʑɧʡʢɺʄⱱɶɞɵɘɜɐʌɤʏɚɝːˑʰʲʷˠˤˀⁿˡ˞˥˦˧˨˩\u0361\u0325\u030a\u0324\u0330\u033c\u0303"
    )
    assert drawable(ipa) == ipa
    assert drawable("ᶑ$") == "[U+1D91]$"
    found = score(["ᶑ", "$^$"], ["ᶑ", "$^$"], n_bootstrap=5)
    assert png(confusion_figure(found))  # a missing glyph would warn, a formula would not parse
