"""The pictures of a report: confusion matrix and ablation, drawn without a display for any number of phonemes."""

from __future__ import annotations

import io
import textwrap
import unicodedata
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

from mtl_speech.phonology.articulation import articulation_order
from mtl_speech.phonology.phone_sets import VOWEL_ORDER
from mtl_speech.scoring.bootstrap import interval_text
from mtl_speech.scoring.metrics import RELIABLE_FROM, AblationRow, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_DPI = 150
_FONT = "DejaVu Sans"  # comes with matplotlib and has the IPA with its diacritics
_INK, _GREY, _PALE = "#1a1a1a", "#767676", "#e6e6e6"
_MACRO, _MICRO = "#1f4e79", "#9dbcd9"
MAX_SHOWN = 100  # phonemes in a matrix: of more, those with the most errors
_ALL_SIDES_FROM = 20  # classes: from here on the phonemes stand above and to the right of the matrix too


def png(figure: Figure) -> bytes:
    """The PNG bytes of a figure, the same for the same figure."""
    buffer = io.BytesIO()
    with _style():
        figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.2, metadata={"Software": None})
    return buffer.getvalue()


def drawable(label: str) -> str:
    """The label; a character that the font of the pictures lacks is written as its code point, such as `[U+1D91]`."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(_FONT))
    return "".join(c if font.get_char_index(ord(c)) else f"[U+{ord(c):04X}]" for c in label)


def most_confused(labels: Sequence[str], counts: NDArray[np.int64], n: int = MAX_SHOWN) -> list[str]:
    """The labels of a matrix of counts (n_classes, n_classes) in articulatory order; of more than `n` those with the most errors.

    An error counts for the true and for the predicted phoneme.
    """
    errors = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    return articulation_order(labels[i] for i in np.argsort(-errors, kind="stable")[:n])


def confusion_figure(scores: Scores, stamp: str = "") -> Figure:
    """The confusion matrix, (n_classes, n_classes): consonants by place and manner, then vowels by height and backness.

    Rows are true phonemes, columns predicted ones; of many phonemes the MAX_SHOWN with the most errors are drawn. The colour is the
    share of the row: blue where the prediction is right, orange where it is not; numbers are tokens. To the right of each row stand
    its number of test tokens and its F1, grey where the tokens are too few. `stamp` is a short warning for the title, such as
    "synthetic speech".
    """
    from matplotlib.figure import Figure

    order = most_confused(scores.labels, scores.confusion)
    places = [scores.labels.index(label) for label in order]
    cell = float(np.interp(len(order), [10, 30, 60], [0.46, 0.32, 0.27]))  # inches
    size = float(np.interp(len(order), [10, 30, 60], [13, 11, 10.5]))  # points
    side = cell * len(order)
    with _style():
        figure = Figure(figsize=(side, side))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        _draw_cells(axes, scores.confusion[np.ix_(places, places)], scores.confusion[places].sum(1), cell)
        _label_sides(axes, order, cell, size)
        _draw_support(axes, order, scores, size)
        _draw_heading(axes, scores, stamp, size)
        _draw_caption(axes, scores, len(order), side, size - 2)
    return figure


def ablation_figure(rows: Sequence[AblationRow], stamp: str = "") -> Figure:
    """Macro-F1 and micro-F1 of each system as bars with 95 % intervals, and the gain in macro-F1 over the one above."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(8.0, 1.3 + 0.95 * len(rows)))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        for place, row in enumerate(rows):
            _draw_bars(axes, place, row)
        axes.set_yticks(range(len(rows)), [_wrapped(row.name, 26) for row in rows], fontsize=12)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0.0, 1.0)
        axes.set_xlabel("F1 and its 95 % interval (gain: macro-F1, paired with the system above)", fontsize=11)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=_PALE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_title(f"Ablation{f' ({stamp})' if stamp else ''}", fontsize=14, loc="left", pad=32)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, frameon=False, fontsize=11)
    return figure


def _style() -> AbstractContextManager[None]:
    from matplotlib import rc_context

    return rc_context({"font.family": _FONT, "text.parse_math": False, "savefig.facecolor": "white"})


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(drawable(text), width))


def cell_colours(counts: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Colours (n_classes, n_classes, 4) of a confusion matrix: blue on the diagonal, orange off it, white where empty.

    The shade is the square root of the share of the `tokens` (n_classes,) of the row, so that rare confusions can be seen. A row
    without tokens is grey.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba

    shade = np.sqrt(counts / np.maximum(tokens, 1)[:, None]) * 0.9
    right = np.eye(len(counts), dtype=bool)[:, :, None]
    colours = np.where(right, colormaps["Blues"](shade), colormaps["Oranges"](shade))
    colours[counts == 0] = to_rgba("white")
    colours[tokens == 0] = to_rgba(_PALE)
    return colours


def _draw_cells(axes: Axes, counts: NDArray[np.int64], tokens: NDArray[np.int64], cell: float) -> None:
    """Colours and numbers of a matrix of counts (n_classes, n_classes), whose rows have `tokens` in all; `cell` in inches."""
    edges = np.arange(len(counts) + 1) - 0.5
    axes.pcolormesh(edges, edges, cell_colours(counts, tokens), edgecolors=_PALE, linewidth=0.8)
    axes.set_ylim(len(counts) - 0.5, -0.5)
    share = counts / np.maximum(tokens, 1)[:, None]
    for row, column in np.argwhere(counts):
        text = str(counts[row, column])
        font_size = min(11.0, cell * 72 / max(1.7, 0.68 * len(text)))
        colour = "white" if share[row, column] > 0.4 else _INK
        axes.text(column, row, text, ha="center", va="center_baseline", fontsize=font_size, color=colour, zorder=3)


def _label_sides(axes: Axes, order: list[str], cell: float, size: float) -> None:
    """The phonemes along the sides (smaller where a column of `cell` inches is narrow), a line before the vowels."""
    labels = [drawable(label) for label in order]
    axes.set_xticks(range(len(order)), labels, fontsize=size)
    axes.set_yticks(range(len(order)), labels, fontsize=size)
    many = len(order) >= _ALL_SIDES_FROM
    axes.tick_params(length=0, pad=4, labeltop=many, labelright=many)
    for tick, label in zip(axes.xaxis.get_major_ticks(), labels, strict=True):
        letters = sum(not unicodedata.combining(character) for character in label)
        for text in (tick.label1, tick.label2):
            text.set_fontsize(min(size, cell * 72 / (0.6 * letters)))
    axes.set_xlabel("predicted phoneme", fontsize=size + 1, labelpad=8)
    axes.set_ylabel("true phoneme", fontsize=size + 1, labelpad=8)
    vowels = [i for i, label in enumerate(order) if label[:1] in VOWEL_ORDER]
    if vowels and vowels[0] > 0:
        axes.axhline(vowels[0] - 0.5, color=_INK, linewidth=1.2, zorder=2)
        axes.axvline(vowels[0] - 0.5, color=_INK, linewidth=1.2, zorder=2)


def _draw_support(axes: Axes, order: list[str], scores: Scores, size: float) -> None:
    """Test tokens and F1 of each row in two columns to the right of the matrix, grey where tokens are too few."""
    by_name = {p.phoneme: p for p in scores.phonemes}
    start = 2.2 * size if len(order) >= _ALL_SIDES_FROM else 0.0  # points, the room of the phonemes on that side

    def write(row: float, n: str, f1: str, colour: str) -> None:
        for right_edge, text in ((3.6 * size, n), (6.6 * size, f1)):
            axes.annotate(
                text,
                (1.0, row),
                (start + right_edge, 0.0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va="center_baseline",
                fontsize=size - 1,
                color=colour,
            )

    write(-1.0, "tokens", "F1", _GREY)
    for row, label in enumerate(order):
        found = by_name.get(label)
        colour = _INK if found and found.reliable else _GREY
        write(row, str(found.n) if found else "0", f"{found.f1:.2f}" if found else "-", colour)


def _draw_heading(axes: Axes, scores: Scores, stamp: str, size: float) -> None:
    stamped = f" ({stamp})" if stamp else ""
    facts = f"{len(scores.phonemes)} phonemes, {scores.n} test tokens"
    facts += f", macro-F1 {scores.macro_f1:.3f} {interval_text(scores.macro_f1_ci95)}"
    axes.set_title(f"Phoneme confusions{stamped}\n{facts}", fontsize=size + 1, loc="left", pad=28)


def _draw_caption(axes: Axes, scores: Scores, n_shown: int, side: float, size: float) -> None:
    """What is shown, what the colours mean, and what was not scored, below the matrix; `side` in inches, `size` in points."""
    text = ""
    if n_shown < len(scores.labels):
        text = f"The {n_shown} of {len(scores.labels)} phonemes with the most errors; report.json has all. "
    text += "Blue: right. Orange: confused. Darker: a larger share of the row. Numbers: test tokens."
    if not all(p.reliable for p in scores.phonemes):
        text += f" Grey figures: fewer than {RELIABLE_FROM} tokens, not reliable."
    if len(scores.labels) > len(scores.phonemes):
        text += " Grey rows: predicted, but not among the test tokens."
    if scores.not_scored:
        text += f" Not scored, too few examples: {', '.join(n.phoneme for n in scores.not_scored)}."
    lines = _wrapped(text, max(40, int(side * 72 / (0.56 * size))))
    axes.annotate(
        lines,
        (0.0, 0.0),
        (0.0, -12.0),
        xycoords=("axes fraction", axes.xaxis.label),  # below whatever room the phonemes take
        textcoords="offset points",
        va="top",
        fontsize=size,
        color=_GREY,
    )


def _draw_bars(axes: Axes, place: int, row: AblationRow) -> None:
    """The two bars of one system, with their values and the gain over the system above it."""
    macro = (-0.19, row.macro_f1, row.macro_f1_ci95, "macro-F1", _MACRO)
    micro = (0.19, row.micro_f1, row.micro_f1_ci95, "micro-F1", _MICRO)
    for offset, value, (low, high), name, colour in (macro, micro):
        y = place + offset
        axes.barh(y, value, height=0.36, color=colour, label=name if place == 0 else None)
        axes.plot([low, high], [y, y], color=_INK, linewidth=1.6, solid_capstyle="butt")
        axes.plot([low, high], [y, y], "|", color=_INK, markersize=8)
        text = f"{value:.3f}"
        if name == "macro-F1" and row.difference_to_previous is not None:
            gain = row.difference_to_previous
            text += f"   gain {gain.mean:+.3f} {interval_text(gain.ci95, signed=True)}"
        axes.annotate(
            text, (max(value, high), y), (8, 0), textcoords="offset points", va="center", fontsize=10, color=_INK
        )
