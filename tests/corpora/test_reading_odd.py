"""Oddities of real archives, one by one: each file is read right, or refused by a message that names it and says what to do."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.audio import SAMPLE_RATE, load_audio
from mtl_speech.corpora.corpus import Segment
from mtl_speech.corpora.folder import find_recordings
from mtl_speech.corpora.label_files import elan, label_lines, textgrid
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.corpora.labels import Labels, find_segments
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.phonology.phonemes import guess_phone_set
from tests.command_line import run
from tests.helpers import toy_recording

ODD = Path(__file__).parents[1] / "data" / "odd"
T, SCHWA = Segment("t", 0.1, 0.25), Segment("ə", 0.25, 0.4)
S = Segment("s", 0.45, 0.49)
BOTH = (T, SCHWA)
GUESSED = "no time of its own: it gets an even share"

# Of each label file: the phones that are read, and what is said, problem by problem.
READ: dict[str, tuple[tuple[Segment, ...], tuple[str, ...]]] = {
    "a-milliard-of-intervals.TextGrid": (BOTH, ("line 25: the file ends, in tier 1 of 1",)),
    "alternatives.ctm": ((*BOTH, S), ("<ALT_BEGIN>' is not 'rec", "<ALT>' is not 'rec", "<ALT_END>' is not 'rec")),
    "arpabet.TextGrid": ((T, Segment("ʌ", 0.25, 0.4)), ("interval 3: stress digits of labels are dropped",)),
    "chronological.TextGrid": ((T,), ()),
    "comments.ctm": (BOTH, ()),
    "confidences.ctm": (BOTH, ()),
    "cr-line-ends.TextGrid": (BOTH, ()),
    "cr.PHN": (BOTH, ()),
    "crlf.PHN": (BOTH, ()),
    "cut-within-utf-16.TextGrid": ((), ("line 17: the file ends",)),
    "empty-tier.TextGrid": ((), ()),
    "end-before-start.TextGrid": ((T,), ("'ə' starts at 0.400 s and ends at 0.250 s",)),
    "escape-sequence-in-a-label.TextGrid": ((SCHWA,), (r"label '\x1b]0;owned\x07' has characters",)),
    "exponents.TextGrid": (BOTH, ()),
    "gap.TextGrid": (BOTH, ()),
    "huge-samples.PHN": (BOTH, ("is not 'first-sample last-sample label'",)),
    "latin-1.TextGrid": ((T, Segment("ø", 0.25, 0.4)), ()),
    "line-break-in-a-label.TextGrid": (BOTH, ()),
    "mac-roman.TextGrid": ((T,), ("label '¿' has characters that are not IPA",)),
    "many-digits.TextGrid": (BOTH, ()),
    "media-elsewhere.eaf": (BOTH, ()),
    "mixed-line-ends.TextGrid": (BOTH, ()),
    "nan-and-negative.ctm": (BOTH, ("not a finite number", "before the audio", "starts at 0.450", "not a finite")),
    "negative-time.TextGrid": (BOTH, ("lies before the audio begins",)),
    "nul-in-a-label.TextGrid": ((SCHWA,), (r"label 't\x00' has characters",)),
    "overlap.TextGrid": ((), ("'t' overlaps 'ə' (interval 3)", "'ə' overlaps 't' (interval 2)")),
    "past-the-end.TextGrid": (BOTH, ("past the end of the audio at 0.500 s",)),
    "point-tier-first.TextGrid": (BOTH, ()),
    "quotes-doubled.TextGrid": (BOTH, ()),
    "reference-tiers.eaf": (BOTH, (GUESSED, GUESSED)),
    "short.TextGrid": (BOTH, ()),
    "tier-name-in-capitals.TextGrid": (BOTH, ("tier 'PHONES' is taken",)),
    "tier-name-with-blanks.TextGrid": (BOTH, ()),
    "times-in-reverse.eaf": ((), ("'t' starts at 0.400 s and ends at 0.250 s", "'ə' starts at 0.250 s")),
    "two-tiers-of-one-name.TextGrid": (BOTH, ("2 tiers 'phones'; the first is used",)),
    "utf-16-be-with-bom.TextGrid": (BOTH, ()),
    "utf-16-be-without-bom.TextGrid": (BOTH, ()),
    "utf-16-le-with-bom.TextGrid": (BOTH, ()),
    "utf-16-le-without-bom.TextGrid": (BOTH, ()),
    "utf-16.PHN": (BOTH, ()),
    "utf-16.eaf": (BOTH, ()),
    "utf-8-with-bom-and-crlf.TextGrid": (BOTH, ()),
    "version-2.8.eaf": (BOTH, ()),
    "without-any-time.eaf": ((), ("'t' has no time; left out", "'ə' has no time; left out")),
    "without-time-values.eaf": (BOTH, (GUESSED, GUESSED)),
}
REFUSED = {
    "binary.TextGrid": "save it in Praat as a text file",
    "comma-decimals.TextGrid": "line 5: a number expected, not '0,5'.*from Praat, with a point in its numbers, not a comma",
    "comma-decimals.ctm": "no line of the form .*seconds, with a point",
    "empty.TextGrid": "the file ends.*save it again from Praat",
    "entity-bomb.eaf": "document type.*save it again from ELAN",
    "external-entity.eaf": "document type.*save it again from ELAN",
    "html-error-page.TextGrid": "not a Praat TextGrid",
    "many-attributes.eaf": "too many elements or attributes",
    "no-tiers.TextGrid": "no 'phones' tier .interval tiers: none.: name the tier of phonemes 'phones'",
    "phones-are-points.TextGrid": "no 'phones' tier",
    "seconds.PHN": "samples of 16 kHz, not seconds",
    "unbound-prefix.eaf": "unbound prefix: line 3.*save it again from ELAN",
}
HEARD = {
    **dict.fromkeys(("24-bit.wav", "8-bit.wav", "a-law.wav", "chunk-after-data.wav", "extensible.wav"), 0.05),
    **dict.fromkeys(("flac-named.wav", "float.wav", "odd-chunk.wav", "rf64.wav", "size-unknown.wav"), 0.05),
    **dict.fromkeys(("id3-first.mp3", "vorbis.ogg"), 2.0),
    "opus.opus": 2 / 3,
}
UNHEARD = {
    "claims-4-gb.wav": "damaged or cut short: 0.05 s of the .* that its header claims.*copy it again",
    "id3-and-no-frames.mp3": "no frame of audio is found.*copy it again",
    "mp3-named.wav": "no frame of audio is found.*convert it",
    "no-data-chunk.wav": "No 'data' chunk.*convert it",
    "text-named.wav": "is a text file.*copy the recording again",
    "truncated.wav": "0.03 s of the 0.05 s that its header claims.*copy it again",
}


def test_every_file_has_its_test() -> None:
    files = {path.name for path in ODD.iterdir() if path.suffix != ".py" and path.is_file()}
    assert files == READ.keys() | REFUSED.keys() | HEARD.keys() | UNHEARD.keys()


def labels_of(name: str) -> tuple[Labels, tuple[str, ...]]:
    """The labels in a file, and what is said besides."""
    path = ODD / name
    if path.suffix == ".ctm":
        named, problems = label_lines.read_ctm(path)
        return named["a"], tuple(map(str, problems))
    read = {".PHN": label_lines.read_phn, ".eaf": elan.read_labels, ".TextGrid": textgrid.read_labels}[path.suffix]
    return read(path), ()


@pytest.mark.parametrize("name", READ)
def test_labels_are_read(name: str) -> None:
    labels, said = labels_of(name)
    segments, problems = find_segments(labels, 0.5, guess_phone_set(phone.label for phone in labels.phones))
    found = [*said, *map(str, labels.problems), *map(str, problems)]
    expected, expected_said = READ[name]
    assert [s.phoneme for s in segments] == [s.phoneme for s in expected]
    for one, other in zip(segments, expected, strict=True):
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=1e-9)
    assert len(found) == len(expected_said)
    for one, part in zip(found, expected_said, strict=True):
        assert part in one and one.startswith(str(ODD / name))


@pytest.mark.parametrize("name", REFUSED)
def test_labels_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=REFUSED[name]) as caught:
        labels_of(name)
    assert str(caught.value).startswith(str(ODD / name))


@pytest.mark.parametrize("name", HEARD)
def test_audio_is_read(name: str) -> None:
    samples = load_audio(ODD / name)
    assert len(samples) / SAMPLE_RATE == pytest.approx(HEARD[name], abs=1e-3)
    assert abs(samples).max() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("name", UNHEARD)
def test_audio_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=UNHEARD[name]) as caught:
        load_audio(ODD / name)
    assert str(caught.value).startswith(str(ODD / name))


# Names, and files that are none. These cannot be kept in a repository.


def recording(path: Path, label_path: Path | None = None) -> Path:
    segments = toy_recording(path, ("a", "s", "t"))
    phones = [(s.start, s.end, s.phoneme) for s in segments]
    write_textgrid(label_path or path.with_suffix(".TextGrid"), 0.5, {"phones": phones})
    return path


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_audio_and_labels_named_in_different_unicode_forms_belong_together(
    tmp_path: Path, forms: tuple[str, str]
) -> None:
    audio, labels = (tmp_path / unicodedata.normalize(form, "été") for form in forms)
    recording(audio.with_suffix(".wav"), labels.with_suffix(".TextGrid"))
    corpus = read_corpus(tmp_path)
    assert [u.id for u in corpus.utterances] == [unicodedata.normalize("NFC", "été")] and corpus.problems == ()
    assert [len(r.labels) for r in find_recordings([tmp_path])[0]] == [1]


@pytest.mark.parametrize(
    "name", ["two words.wav", "-o.wav", "😀 ਘਰ.wav", "a'b\"c.wav", "$(true);&.wav", "100%.wav", "a.b.wav"]
)
def test_a_name_may_have_anything_printable(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recording(tmp_path / "corpus" / name)
    monkeypatch.chdir(tmp_path / "corpus")
    assert "nothing is left out" in run("validate", ".").output
    assert [r.name for r in find_recordings([Path(name)])[0]] == [name.removesuffix(".wav")]


@pytest.mark.parametrize(
    "name", [b"line\nbreak.wav", b"\xff\xfe latin.wav", b"escape\x1b[2J.wav", b"turned\xe2\x80\xae.wav"]
)
def test_a_name_that_cannot_be_written_in_a_list_is_told_and_left_out(tmp_path: Path, name: bytes) -> None:
    recording(tmp_path / "corpus" / "good.wav")
    try:
        os.rename(recording(tmp_path / "corpus" / "bad.wav"), os.fsencode(tmp_path / "corpus") + b"/" + name)
    except OSError:
        pytest.skip("the file system has no such names")
    said = run("validate", tmp_path / "corpus", "-o", tmp_path / "out", code=1).output
    line = next(line for line in said.splitlines() if "rename it" in line)
    assert "left out" in line and "\x1b" not in said
    assert "rename it" in (tmp_path / "out" / "problems.csv").read_text(encoding="utf-8")
    assert [r.name for r in find_recordings([tmp_path / "corpus"])[0]] == ["good"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    recording(tmp_path / "good.wav")
    for name in ("loop.wav", "loop.TextGrid"):
        (tmp_path / name).symlink_to(tmp_path / name)
    (tmp_path / "folder").symlink_to(tmp_path)
    corpus = read_corpus(tmp_path)
    assert [u.id for u in corpus.utterances] == ["good"]
    assert any("loop" in str(problem) for problem in corpus.problems)
    assert [r.name for r in find_recordings([tmp_path])[0]] == ["good", "loop"]


@pytest.mark.parametrize("name", ["a.TextGrid", "a.eaf", "a.PHN", "phones.ctm"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_may_never_end_is_not_read(tmp_path: Path, name: str, kind: str) -> None:
    recording(tmp_path / "a.wav", tmp_path / "b.TextGrid")
    recording(tmp_path / "good.wav")
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    said = [str(problem) for problem in read_corpus(tmp_path).problems]
    if kind != "folder":
        assert any(str(path) in each and "it is no file" in each for each in said)
