"""TIMIT's 61 labels folded to 48 and 39 (Lee and Hon 1989), and the speakers of its development and core test sets."""

from __future__ import annotations

from mtl_speech.phonology.phonemes import to_ipa

# The labels that folding changes. A glottal stop ("q") is left out.
_TO_48: dict[str, str | None] = {
    "ax-h": "ax", "axr": "er", "em": "m", "eng": "ng", "hv": "hh", "nx": "n", "ux": "uw", "h#": "sil", "pau": "sil",
    "bcl": "vcl", "dcl": "vcl", "gcl": "vcl", "pcl": "cl", "tcl": "cl", "kcl": "cl", "q": None,
}  # fmt: skip
_FROM_48_TO_39: dict[str, str] = {
    "ao": "aa", "ax": "ah", "el": "l", "en": "n", "ix": "ih", "zh": "sh", "cl": "sil", "vcl": "sil", "epi": "sil",
}  # fmt: skip
SILENCES_48 = frozenset({"sil", "epi", "cl", "vcl"})  # one class of the 39, and no phoneme

# The core test set of TIMIT's documentation: two men and a woman of each of the eight dialect regions.
CORE_TEST_SPEAKERS = frozenset(
    """mdab0 mwbt0 felc0 mtas1 mwew0 fpas0 mjmp0 mlnt0 fpkt0 mlll0 mtls0 fjlm0 mbpm0 mklt0 fnlp0 mcmj0 mjdh0 fmgd0
    mgrt0 mnjm0 fdhc0 mjln0 mpam0 fmld0""".split()
)
# The 50 other speakers of the test folder that are the usual development set (as in Kaldi).
DEV_SPEAKERS = frozenset(
    """faks0 fdac1 fjem0 mgwt0 mjar0 mmdb1 mmdm2 mpdf0 fcmh0 fkms0 mbdg0 mbwm0 mcsh0 fadg0 fdms0 fedw0 mgjf0 mglb0
    mrtk0 mtaa0 mtdt0 mthc0 mwjg0 fnmr0 frew0 fsem0 mbns0 mmjr0 mdls0 mdlf0 mdvc0 mers0 fmah0 fdrw0 mrcs0 mrjm4 fcal1
    mmwh0 fjsj0 majc0 mjsw0 mreb0 fgjd0 fjmg0 mroa0 mteb0 mjfc0 mrjr0 fmml0 mrws1""".split()
)


def fold_48(label: str) -> str | None:
    """One of the 48 labels for one of the 61, in any case; None for a glottal stop. Another label stays as it is."""
    return _TO_48.get(label.lower(), label.lower())


def fold_39(label: str) -> str | None:
    """One of the 39 labels for one of the 61 or 48; None for a glottal stop."""
    found = fold_48(label)
    return found if found is None else _FROM_48_TO_39.get(found, found)


# What scoring folds, in IPA: a phoneme of the 48 to the one of the 39 that it counts as.
IPA_48_TO_39: dict[str, str] = {
    str(to_ipa(label, "timit")): str(to_ipa(folded, "timit"))
    for label, folded in _FROM_48_TO_39.items()
    if label not in SILENCES_48
}
