"""Labels as people in the field write them: apostrophes, detached marks, Praat's symbols, other notations; and what is told."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
import soundfile

from mtl_speech.core.errors import Problem, in_groups, kind_of, once_each
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.label_files import praat_symbols
from mtl_speech.corpora.label_files.textgrid import read_labels, read_textgrid
from mtl_speech.corpora.reading import read_corpus
from tests.command_line import run
from tests.helpers import tone

STEP = 0.1  # seconds an interval


def recording(folder: Path, name: str, labels: list[str]) -> Path:
    """A tone and a TextGrid, as text, with these labels one after another; an empty label is a pause."""
    path = folder / "speaker" / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = round(STEP * len(labels), 3)
    soundfile.write(path, tone(seconds, 200.0), 16_000)
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", f"{seconds}", "<exists>", "1"]
    body = ['"IntervalTier"', '"phones"', "0", f"{seconds}", f"{len(labels)}"]
    for place, label in enumerate(labels):
        quoted = label.replace('"', '""')
        body += [f"{place * STEP:.3f}", f"{(place + 1) * STEP:.3f}", f'"{quoted}"']
    path.with_suffix(".TextGrid").write_text("\n".join([*head, *body]), encoding="utf-8")
    return path.with_suffix(".TextGrid")


def corpus_of(folder: Path, *recordings: str, phone_set: str = "auto") -> Corpus:
    """A corpus of recordings, each its labels apart by blanks; "." is a pause."""
    for number, labels in enumerate(recordings):
        recording(folder, f"w{number}", ["" if label == "." else label for label in labels.split()])
    return read_corpus(folder, phone_set=phone_set)


def phones(corpus: Corpus) -> list[str]:
    return [" ".join(segment.phoneme for segment in utterance.segments) for utterance in corpus.utterances]


def told(corpus: Corpus) -> list[str]:
    return [problem.said for problem in corpus.problems]


APOSTROPHES = ["'", "’", "ʼ", "′"]


@pytest.mark.parametrize("mark", APOSTROPHES)
def test_an_apostrophe_is_a_glottal_stop_wherever_it_stands(tmp_path: Path, mark: str) -> None:
    corpus = corpus_of(tmp_path, f"k a {mark} o n", f"{mark} a i", f"i {mark} a {mark} a", f". {mark} . n {mark}")
    assert phones(corpus) == ["k a ʔ o n", "ʔ a i", "i ʔ a ʔ a", "ʔ n ʔ"]
    assert corpus.phoneme_counts()["ʔ"] == 6
    assert told(corpus) == [f"label '{mark}' is read as 'ʔ' (6 times)"] and corpus.problems[0].interval == 3
    assert not any("ʼ" in phoneme for phoneme in corpus.phoneme_counts())
    segments = corpus.utterances[0].segments
    assert (segments[2].start, segments[2].end) == pytest.approx((0.2, 0.3)) and segments[1].end == pytest.approx(0.2)


@pytest.mark.parametrize("mark", APOSTROPHES)
def test_after_a_voiceless_obstruent_it_is_an_ejective_and_that_is_told(tmp_path: Path, mark: str) -> None:
    corpus = corpus_of(tmp_path, f"a k {mark} a", f"tʃ {mark} i", f"k . {mark} a", f"d {mark} a", f"kʼ {mark} a")
    assert phones(corpus) == ["a kʼ a", "t͡ʃʼ i", "k ʔ a", "d ʔ a", "kʼ ʔ a"]
    assert corpus.utterances[0].segments[1].end == pytest.approx(0.3)
    assert f"'{mark}' is no phoneme of its own: joined to the one before it as 'kʼ'" in told(corpus)
    assert f"label '{mark}' is read as 'ʔ' (3 times)" in told(corpus)


def test_a_vowel_with_an_apostrophe_in_one_interval_is_refused_with_advice(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "k a' t o", "n a t o")
    assert phones(corpus) == ["k t o", "n a t o"]
    (problem,) = corpus.problems
    assert not problem.used and "label 'a'' has an ejective mark" in problem.reason and "ʔ (U+0294)" in problem.reason


def test_a_detached_mark_joins_the_phoneme_that_can_take_it(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "k ʰ a", "a ʰ p a", "a ⁿ d a", "d ⁿ a", "a ː t", "a \u0303 t", "kː ʰ a")
    nasal = "a\u0303 t"
    assert phones(corpus) == ["kʰ a", "a ʰp a", "a ⁿd a", "dⁿ a", "aː t", nasal, "kʰː a"]
    assert all(problem.used for problem in corpus.problems)
    assert corpus.utterances[1].segments[1].start == pytest.approx(0.1)
    assert "'ʰ' is no phoneme of its own: joined to the one after it as 'ʰp'" in told(corpus)


def test_a_mark_that_nothing_can_take_is_left_out_and_told(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "a ʰ a", "ⁿ", "a ʰ . p", "a ⁿ ⁿ d", "t k a")
    assert phones(corpus) == ["a a", "a p", "a ⁿd", "t k a"]
    left_out = [
        problem for problem in corpus.problems if not problem.used and "is a mark that neither" in problem.reason
    ]
    assert [(problem.file.name, problem.interval) for problem in left_out] == [
        ("w0.TextGrid", 2), ("w1.TextGrid", 1), ("w2.TextGrid", 2), ("w3.TextGrid", 2),
    ]  # fmt: skip


def test_in_x_sampa_marks_are_those_of_x_sampa(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "t _h a", "n ' a", "_n d a", 'S "a', phone_set="xsampa")
    assert phones(corpus) == ["tʰ a", "nʲ a", "ⁿd a", "ʃ a"]
    assert "label '\"a' is read as 'a'" in told(corpus)


def test_what_was_changed_is_told_once_with_its_number(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "ʧ a: ˈi t", "ʧ a: t i", "t͡ʃ aː i")
    assert phones(corpus) == ["t͡ʃ aː i t", "t͡ʃ aː t i", "t͡ʃ aː i"]
    assert told(corpus) == [
        "label 'ʧ' is read as 't͡ʃ' (2 times)",
        "label 'a:' is read as 'aː' (2 times)",
        "label 'ˈi' is read as 'i'",
    ]
    assert all(problem.used and problem.file.name == "w0.TextGrid" for problem in corpus.problems)


def test_composed_letters_are_no_change(tmp_path: Path) -> None:
    assert told(corpus_of(tmp_path, unicodedata.normalize("NFC", "ã ç t"), "a\u0303 t i")) == []


# Praat's symbols


def test_labels_are_read_as_praat_shows_them(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, r"b \vt t \ic \?g", r"m i l \as\:f \gs \fh u", r"\dh \sw n\|v t\^h k\^w\ap \e-")
    assert phones(corpus) == ["b ʌ t ɪ ʔ", "m i l ɑː ɡ ɾ u", "ð ə n̩ tʰ kʷʼ ɘ"]
    assert all(problem.used for problem in corpus.problems)
    assert r"label '\as\:f' is read as 'ɑː', as Praat shows it" in told(corpus)
    assert corpus.notation == "ipa (guessed from all labels together)"


def test_the_same_symbol_in_many_files_is_told_once(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, r"b \vt", r"\vt b \vt", r"t \vt")
    assert told(corpus) == [r"label '\vt' is read as 'ʌ', as Praat shows it (4 times)"]


def test_backslashes_of_x_sampa_stay(tmp_path: Path) -> None:
    path = recording(tmp_path, "w", ["r\\", "a", "J\\_<", "|\\|\\", "s\\_h", "\\vt"])
    assert [each.label for each in read_labels(path).phones] == ["r\\", "a", "J\\_<", "|\\|\\", "s\\_h", "ʌ"]
    assert [each.label for each in read_textgrid(path).tiers[0].intervals][-1] == "\\vt"  # the file as it stands
    corpus = corpus_of(tmp_path / "x", "r\\ a S t_h", "J\\ I @ N", "?\\ E O s\\")
    assert corpus.notation.startswith("xsampa") and phones(corpus) == ["ɹ a ʃ tʰ", "ɟ ɪ ə ŋ", "ʕ ɛ ɔ ɕ"]


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("\\ae", "æ"),
        ("a\\~^", "a\u0303"),
        ("t\\lis", "t͡s"),
        ("\\'1a", "ˈa"),
        ("\\xx1", "×1"),
        ("\\v", None),
        ("a\\", None),
    ],
)
def test_symbols_one_by_one(label: str, text: str | None) -> None:
    assert praat_symbols.shown(label) == (None if label == "\\xx1" else text)


def test_every_symbol_has_two_characters_and_one_letter() -> None:
    table = praat_symbols.table()
    assert len(table) > 300 and all(len(symbol) == 2 and len(letter) == 1 for symbol, letter in table.items())
    assert {"ɑ", "ɾ", "ʔ", "ʘ", "ǂ", "ˑ", "ʰ", "\u0303", "\u0361", "˥", "ʝ"} <= set(table.values())


# Notations


def test_positions_of_kaldi_and_gentle_are_dropped(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "kaldi", "SIL_S AH0_B T_E", "K_B IY1_E SIL_S", "HH_S AE_S N_S")
    assert phones(corpus) == ["ʌ t", "k i", "h æ n"] and corpus.notation.startswith("arpabet")
    assert told(corpus)[0].endswith("positions in the word (_B, _I, _E, _S) of labels are dropped (2 times)")
    gentle = corpus_of(tmp_path / "gentle", "ah0_B t_E", "k_B iy1_I hh_E", "dh_B eh2_E ng_S")
    assert phones(gentle) == ["ʌ t", "k i h", "ð ɛ ŋ"]


def test_one_sentence_where_most_labels_fail(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "AA1 K T", "IY2 HH AH0 t", phone_set="ipa")
    (problem, *rest) = corpus.problems
    assert problem.file == tmp_path and not problem.used and "--phone-set arpabet reads 7 of them" in problem.reason
    assert not any("not IPA" in each.reason for each in rest)
    assert corpus.notation == "ipa (as given)"


def test_look_alikes_stand_first(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "zh ang j i", "x ian sh eng", "q u b a d")
    assert "look like Pinyin" in corpus.problems[0].reason and corpus.problems[0].used
    glides = corpus_of(tmp_path / "y", "p a y", "y o t i", "k y a")
    assert "'y' (3 labels) is read as the vowel y" in told(glides)[0]


# Messages


def test_messages_that_repeat_are_told_once_with_three_examples() -> None:
    problems = [
        Problem(Path(f"{n}.TextGrid"), f"label 'Q{n}' is more than one phoneme; left out", "phones", n)
        for n in range(1, 9)
    ]
    problems += [Problem(Path("a"), "no labels"), Problem(Path("b.wav"), "silent", used=True)]
    lines = in_groups([*problems, *[Problem(Path("c"), f"label '{c}' is read as 'ʔ'", "t", 1, True, 5) for c in "'’"]])
    assert len({kind_of(problem.reason) for problem in problems[:8]}) == 1
    assert lines[:4] == [
        *(f"left out: {problem}" for problem in problems[:3]),
        "left out: 5 more of this kind, 8 in all",
    ]
    assert "left out: a: no labels" in lines and "changed: b.wav: silent" in lines
    assert "changed: c, tier 't', interval 1: label ''' is read as 'ʔ' (5 times)" in lines


def test_only_the_same_change_of_intervals_is_counted_together() -> None:
    same = [Problem(Path(name), "label 'g' is read as 'ɡ'", "phones", 2, True, 3) for name in ("a", "b")]
    other = [Problem(Path("a"), "silent", used=True), Problem(Path("b"), "silent", used=True)]
    left = [
        Problem(Path("a"), "label 'Q'; left out", "phones", 1),
        Problem(Path("b"), "label 'Q'; left out", "phones", 1),
    ]
    found = once_each([*same, *other, *left])
    assert found == [Problem(Path("a"), "label 'g' is read as 'ɡ'", "phones", 2, True, 6), *other, *left]


def test_validate_prints_the_phone_set_and_groups_what_repeats(tmp_path: Path) -> None:
    labels = ["%1", "%2", "%3", "§4", "%5", "a", "t", "k", "i", "s", "m", "o", "n"]
    for number in range(2):
        recording(tmp_path, f"w{number}", [*labels, *"aeioustkmn"])
    said = run("validate", tmp_path, code=1)
    assert "phone set:  ipa (guessed from all labels together)" in said.stdout
    lines = [line for line in said.stdout.splitlines() if line.startswith("left out")]
    assert len(lines) == 4 and lines[3].endswith("7 more of this kind, 10 in all") and "10 things in it" in said.stderr
