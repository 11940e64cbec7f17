"""Problems of one kind are counted as one, whatever their place."""

from __future__ import annotations

import pytest

from mtl_speech.core.errors import kind_of


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("'b' (0.400 to 0.900 s) lies past the end", "'…' (# to # s) lies past the end"),
        ("label 'x1' is not in the ARPAbet phone set", "label 'x#' is not in the ARPAbet phone set"),
        ("no labels", "no labels"),
    ],
)
def test_reasons_are_of_one_kind_whatever_their_place(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind
