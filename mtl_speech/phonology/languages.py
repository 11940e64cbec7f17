"""Language tags: what a person types (a code or a name) to one canonical tag."""

from __future__ import annotations

import re
from functools import lru_cache

from mtl_speech.core.errors import UsageError

UNDETERMINED = "und"

# Names that stand for more than one tag, or for another one than langcodes picks.
_NAMES = {"western punjabi": "pnb", "western panjabi": "pnb", "shahmukhi": "pnb"}
_TAG = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*")


@lru_cache(maxsize=1024)
def canonical(tag: str) -> str:
    """The canonical BCP-47 tag of a language given by code or by name.

    "pa", "pan", "pan-Guru" and "Punjabi" are all "pa"; "pnb" (Western Punjabi) is another language. A script or region
    is dropped where it is the usual one of the language ("pa-Guru", "en-US") and kept where it is not ("en-GB").
    "und" passes through, and so do the private codes "qaa" to "qtz", for a language that has no code.

    Raises:
        UsageError: no language has this code or name.
    """
    text = tag.strip()
    if text.lower() == UNDETERMINED:
        return UNDETERMINED
    found = _by_code(text) or _by_name(text)
    if found is None:
        raise UsageError(
            f"unknown language '{tag}': give an ISO 639 or BCP-47 code such as 'pa', 'pan' or 'pan-Guru', or an "
            "English name such as 'Punjabi'; for a language without a code use one of 'qaa' to 'qtz', or 'und'"
        )
    return found


def display_name(tag: str) -> str:
    """The English name of a language: "pa" gives "Punjabi". A private code is its own name.

    Raises:
        UsageError: no language has this code or name.
    """
    import langcodes

    code = canonical(tag)
    if code == UNDETERMINED:
        return "undetermined language"
    name = langcodes.get(code).display_name()
    return code if name.startswith("Unknown language") else name


def _by_code(text: str) -> str | None:
    """The canonical tag if the text is a valid tag."""
    import langcodes

    if not _TAG.fullmatch(text):
        return None
    try:
        language = langcodes.get(text)
    except ValueError:
        return None
    return _without_defaults(language) if language.is_valid() else None


def _without_defaults(language: object) -> str:
    """The tag without the script and the region that its language implies."""
    import langcodes

    assert isinstance(language, langcodes.Language)
    code = language.language or UNDETERMINED
    usual = langcodes.Language.make(language=code).maximize()
    script = None if language.script == usual.script else language.script
    region = None if language.territory == usual.territory else language.territory
    kept = langcodes.Language.make(language=code, script=script, territory=region, variants=language.variants)
    return kept.to_tag()


def _by_name(text: str) -> str | None:
    """The canonical tag of the language with this name (English first, then any language's name for it)."""
    import langcodes

    name = " ".join(text.lower().split())
    if name in _NAMES:
        return _NAMES[name]
    if len(name) < 4:  # shorter names are nearly always mistyped codes: "pan" is no name of Pangasinan
        return None
    try:
        return _without_defaults(langcodes.find(name))
    except LookupError:
        return None
