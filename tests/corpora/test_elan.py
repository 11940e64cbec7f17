"""ELAN files: phones and words read from them, hostile ones refused, and transcriptions put into them without loss."""

from __future__ import annotations

import itertools
import random
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from pympi import Elan

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.label_files.elan import read_eaf, read_labels
from mtl_speech.corpora.labels import MissingPhones
from mtl_speech.transcription.transcript import Phone, Transcription, eaf_bytes

FOUND = Transcription(
    0.5,
    (
        Phone("", 0.0, 0.1, 0.99),
        Phone("t̪ʰ", 0.1, 0.25, 0.874),
        Phone("ə", 0.25, 0.4004, 0.406, zero_shot=True),
        Phone("", 0.4004, 0.5, 0.9),
    ),
)
# Everything that ELAN's schema has: both kinds of controlled vocabularies, references to them, unaligned slots, subdivision.
RICH = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="R&amp;D" DATE="2020-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">
  <LICENSE LICENSE_URL="https://example.org">CC0</LICENSE>
  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///D:/field/a.wav" MIME_TYPE="audio/x-wav" RELATIVE_MEDIA_URL="./a.wav"/>
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///D:/field/a.mp4" MIME_TYPE="video/mp4" TIME_ORIGIN="40"
      RELATIVE_MEDIA_URL="../video/a.mp4"/>
    <LINKED_FILE_DESCRIPTOR LINK_URL="file:///D:/a.pitch" MIME_TYPE="text/plain" RELATIVE_LINK_URL="./a.pitch"/>
    <PROPERTY NAME="URN">urn:nl-mpi-tools-elan-eaf:1</PROPERTY>
    <PROPERTY NAME="lastUsedAnnotationId">7</PROPERTY>
  </HEADER>
  <TIME_ORDER>
    <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="100"/>
    <TIME_SLOT TIME_SLOT_ID="ts2"/>
    <TIME_SLOT TIME_SLOT_ID="ts3"/>
    <TIME_SLOT TIME_SLOT_ID="ts4" TIME_VALUE="400"/>
  </TIME_ORDER>
  <!-- words first -->
  <TIER TIER_ID="words" LINGUISTIC_TYPE_REF="default-lt" PARTICIPANT="A" ANNOTATOR="B" LANG_REF="pan">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts4" SVG_REF="s1">
      <ANNOTATION_VALUE> ਠੰਡ </ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER TIER_ID="phones" LINGUISTIC_TYPE_REF="sub" PARENT_REF="words">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
      <ANNOTATION_VALUE>t̪ʰ</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION><!-- sure --></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a3" TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts3">
      <ANNOTATION_VALUE>ə</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a4" TIME_SLOT_REF1="ts3" TIME_SLOT_REF2="ts4">
      <ANNOTATION_VALUE>ɖ</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER TIER_ID="pos" LINGUISTIC_TYPE_REF="assoc" PARENT_REF="words">
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a5" ANNOTATION_REF="a1" CVE_REF="cveid_1" EXT_REF="er1">
      <ANNOTATION_VALUE>noun</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER TIER_ID="glosses" LINGUISTIC_TYPE_REF="sym" PARENT_REF="words">
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a6" ANNOTATION_REF="a1"><ANNOTATION_VALUE/></REF_ANNOTATION></ANNOTATION>
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a7" ANNOTATION_REF="a1" PREVIOUS_ANNOTATION="a6">
      <ANNOTATION_VALUE>x</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
  </TIER>
  <LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="default-lt" TIME_ALIGNABLE="true" GRAPHIC_REFERENCES="false"/>
  <LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="sub" TIME_ALIGNABLE="true" CONSTRAINTS="Time_Subdivision"/>
  <LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="sym" TIME_ALIGNABLE="false" CONSTRAINTS="Symbolic_Subdivision"/>
  <LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="assoc" TIME_ALIGNABLE="false" CONSTRAINTS="Symbolic_Association"
    CONTROLLED_VOCABULARY_REF="pos"/>
  <LANGUAGE LANG_ID="pan" LANG_DEF="http://cdb.iso.org/lg/CDB-00138462-001" LANG_LABEL="Punjabi (pan)"/>
  <CONSTRAINT DESCRIPTION="1-1 association" STEREOTYPE="Symbolic_Association"/>
  <CONTROLLED_VOCABULARY CV_ID="pos"><DESCRIPTION LANG_REF="pan">words</DESCRIPTION>
    <CV_ENTRY_ML CVE_ID="cveid_1"><CVE_VALUE LANG_REF="pan" DESCRIPTION="d">noun</CVE_VALUE></CV_ENTRY_ML></CONTROLLED_VOCABULARY>
  <CONTROLLED_VOCABULARY CV_ID="old" DESCRIPTION="of 2.7"><CV_ENTRY DESCRIPTION="e">yes</CV_ENTRY></CONTROLLED_VOCABULARY>
  <LEXICON_REF LEX_REF_ID="lr1" NAME="n" TYPE="t" URL="u" LEXICON_ID="l" LEXICON_NAME="m"/>
  <EXTERNAL_REF EXT_REF_ID="er1" TYPE="iso12620" VALUE="v"/>
</ANNOTATION_DOCUMENT>
"""


def saved(folder: Path, content: str | bytes, name: str = "a.eaf") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def simple_eaf(path: Path, tiers: dict[str, Sequence[tuple[int, int, str]]]) -> Path:
    """A file as pympi writes it; times in milliseconds."""
    eaf = Elan.Eaf()
    for name, those in tiers.items():
        eaf.add_tier(name)
        for annotation in those:
            eaf.add_annotation(name, *annotation)
    eaf.remove_tier("default")
    eaf.to_file(str(path))
    return path


def shape(element: Element) -> tuple[object, ...]:
    """An element with all that is in it, but blanks between elements."""
    return element.tag, element.attrib, (element.text or "") if len(element) == 0 else "", tuple(map(shape, element))


# Reading


def test_phones_and_words(tmp_path: Path) -> None:
    path = simple_eaf(tmp_path / "a.eaf", {"phones": [(100, 250, " t̪ʰ"), (250, 400, "ə")], "words": [(100, 400, "ਠ")]})
    labels = read_labels(path)
    assert [(i.start, i.end, i.label, i.number) for i in labels.phones] == [(0.1, 0.25, "t̪ʰ", 1), (0.25, 0.4, "ə", 2)]
    assert [(i.start, i.end, i.label) for i in labels.words] == [(0.1, 0.4, "ਠ")]
    assert (labels.tier, labels.problems, labels.duration) == ("phones", (), None)


def test_annotations_without_a_time_of_their_own(tmp_path: Path) -> None:
    labels = read_labels(saved(tmp_path, RICH))
    assert [(i.label, round(i.start, 6), round(i.end, 6)) for i in labels.phones] == [
        ("t̪ʰ", 0.1, 0.2),
        ("ə", 0.2, 0.3),
        ("ɖ", 0.3, 0.4),
    ]
    assert [(p.interval, p.used) for p in labels.problems] == [(1, True), (2, True), (3, True)]
    assert "no time of its own" in labels.problems[0].reason
    assert [(i.label, i.start, i.end) for i in labels.words] == [("ਠੰਡ", 0.1, 0.4)]


def test_annotations_that_refer_to_others(tmp_path: Path) -> None:
    swapped = RICH.replace('"phones"', '"other"').replace('"glosses"', '"phones"')
    labels = read_labels(saved(tmp_path, swapped))
    assert [(i.label, i.start, i.end) for i in labels.phones] == [("", 0.1, 0.25), ("x", 0.25, 0.4)]
    assert [p.used for p in labels.problems] == [True, True]
    alone = RICH.replace('"phones"', '"other"').replace('"pos" LING', '"phones" LING')
    labels = read_labels(saved(tmp_path, alone))
    assert [(i.label, i.start, i.end) for i in labels.phones] == [("noun", 0.1, 0.4)] and labels.problems == ()


def test_what_has_no_time_at_all_is_left_out_and_named(tmp_path: Path) -> None:
    labels = read_labels(saved(tmp_path, RICH.replace(' TIME_VALUE="400"', "")))
    assert labels.phones == labels.words == ()
    assert [(p.interval, p.used) for p in labels.problems] == [(1, False), (2, False), (3, False)]


def test_references_in_a_circle_end(tmp_path: Path) -> None:
    text = RICH.replace('"a6" ANNOTATION_REF="a1"', '"a6" ANNOTATION_REF="a7"').replace(
        '"a7" ANNOTATION_REF="a1"', '"a7" ANNOTATION_REF="a6"'
    )
    assert len(read_labels(saved(tmp_path, text)).phones) == 3


@pytest.mark.parametrize("name", ["Phones", "phonemes", "anna - phones", "phones@anna"])
def test_a_near_name_is_used_and_told(tmp_path: Path, name: str) -> None:
    labels = read_labels(simple_eaf(tmp_path / "a.eaf", {name: [(0, 100, "a")]}))
    assert len(labels.phones) == 1 and [p.used for p in labels.problems] == [True]


def test_no_phones_and_machine_labels(tmp_path: Path) -> None:
    with pytest.raises(MissingPhones, match="no 'phones' tier .tiers: 'words'"):
        read_labels(simple_eaf(tmp_path / "a.eaf", {"words": []}))
    with pytest.raises(MissingPhones, match="machine labels: check them and rename the tier to 'phones'"):
        read_labels(simple_eaf(tmp_path / "b.eaf", {"phones-pred": [(0, 100, "a")]}))


SLOTS = {f"t{n}": 100 * n for n in range(9)}  # milliseconds


def made_eaf(folder: Path, words: str, phones: Sequence[str], slots: dict[str, int | None] | None = None) -> Path:
    """An .eaf with annotations that are given in XML, one a line in the order of the file."""
    times = (f' TIME_VALUE="{time}"' if time is not None else "" for time in (slots or SLOTS).values())
    order = "".join(f'<TIME_SLOT TIME_SLOT_ID="{n}"{t}/>' for n, t in zip(slots or SLOTS, times, strict=True))
    inside = "".join(f"<ANNOTATION>{each}</ANNOTATION>" for each in phones)
    return saved(
        folder,
        f'<ANNOTATION_DOCUMENT><HEADER TIME_UNITS="milliseconds"/><TIME_ORDER>{order}</TIME_ORDER>'
        f'<TIER TIER_ID="words"><ANNOTATION>{words}</ANNOTATION></TIER>'
        f'<TIER TIER_ID="phones" PARENT_REF="words">{inside}</TIER></ANNOTATION_DOCUMENT>',
    )


def aligned(name: str, first: str, last: str, label: str) -> str:
    return (
        f'<ALIGNABLE_ANNOTATION ANNOTATION_ID="{name}" TIME_SLOT_REF1="{first}" TIME_SLOT_REF2="{last}">'
        f"<ANNOTATION_VALUE>{label}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION>"
    )


def part(name: str, previous: str, label: str, parent: str = "w") -> str:
    link = f' PREVIOUS_ANNOTATION="{previous}"' if previous else ""
    return (
        f'<REF_ANNOTATION ANNOTATION_ID="{name}" ANNOTATION_REF="{parent}"{link}>'
        f"<ANNOTATION_VALUE>{label}</ANNOTATION_VALUE></REF_ANNOTATION>"
    )


WORD = aligned("w", "t0", "t8", "kala")
KALA = [part("p1", "", "k"), part("p2", "p1", "a"), part("p3", "p2", "l"), part("p4", "p3", "aː")]


def test_a_subdivision_follows_its_links_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    for order in itertools.permutations(KALA):
        labels = read_labels(made_eaf(tmp_path, WORD, order))
        assert [(i.label, i.start, i.end) for i in labels.phones] == [
            ("k", 0.0, 0.2),
            ("a", 0.2, 0.4),
            ("l", 0.4, pytest.approx(0.6)),
            ("aː", pytest.approx(0.6), 0.8),
        ]
        assert [(p.used, "file" in p.reason) for p in labels.problems] == [(True, False)] * 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({0: part("p1", "p4", "k")}, "in a circle"),
        ({1: part("p2", "gone", "a")}, "follows 'gone', which is none of them"),
        ({1: part("p2", "p2", "a")}, "several of its neighbours follow the same one"),
        ({1: part("p2", "", "a")}, "2 of its neighbours are the first"),
        ({3: part("p4", "p2", "aː")}, "several of its neighbours follow the same one"),
        ({2: part("p3", "p4", "l")}, "in a circle"),
    ],
)
def test_a_broken_chain_falls_back_to_the_order_of_the_file_and_is_told(
    tmp_path: Path, changed: dict[int, str], said: str
) -> None:
    parts = [changed.get(place, each) for place, each in enumerate(KALA)]
    labels = read_labels(made_eaf(tmp_path, WORD, parts[::-1]))
    assert [i.label for i in labels.phones] == ["aː", "l", "a", "k"]
    assert all(said in p.reason and "in the order of the file" in p.reason and p.used for p in labels.problems)
    assert len(labels.problems) == 4


def test_parts_without_any_link_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    labels = read_labels(made_eaf(tmp_path, WORD, [part("p1", "", "k"), part("p2", "", "a")]))
    assert [i.label for i in labels.phones] == ["k", "a"]
    assert not any("file" in p.reason for p in labels.problems) and len(labels.problems) == 2


UNTIMED = {"t0": 0, "x": None, "y": None, "t3": 600, "t4": 700, "z": None, "t6": 900}
DIVIDED = [
    aligned("p1", "t0", "x", "k"),
    aligned("p2", "x", "y", "a"),
    aligned("p3", "y", "t3", "l"),
    aligned("p4", "t4", "z", "o"),
    aligned("p5", "z", "t6", "s"),
]


def test_a_time_subdivision_follows_its_slots_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    for order in itertools.permutations(DIVIDED):
        labels = read_labels(made_eaf(tmp_path, aligned("w", "t0", "t6", "w"), order, UNTIMED))
        assert [(i.label, round(i.start, 6), round(i.end, 6)) for i in labels.phones] == [
            ("k", 0.0, 0.2),
            ("a", 0.2, 0.4),
            ("l", 0.4, 0.6),
            ("o", 0.7, 0.8),
            ("s", 0.8, 0.9),
        ]
        assert not any("file" in p.reason for p in labels.problems) and len(labels.problems) == 5


def test_slots_that_run_in_a_circle_are_in_the_order_of_the_file_and_told(tmp_path: Path) -> None:
    circle = [aligned("p1", "t0", "x", "k"), aligned("p2", "x", "y", "a"), aligned("p3", "y", "x", "l")]
    labels = read_labels(made_eaf(tmp_path, aligned("w", "t0", "t3", "w"), [*circle, DIVIDED[3]], UNTIMED))
    assert any("in the order of the file" in p.reason for p in labels.problems)


def test_annotations_with_times_come_in_time_order(tmp_path: Path) -> None:
    spans = [("t4", "t6", "l"), ("t0", "t1", "k"), ("t1", "t3", "a")]
    labels = read_labels(made_eaf(tmp_path, WORD, [aligned(f"p{n}", *each) for n, each in enumerate(spans)]))
    assert [(i.label, i.number) for i in labels.phones] == [("k", 2), ("a", 3), ("l", 1)] and labels.problems == ()


def test_an_id_that_stands_twice_gives_no_times_in_silence(tmp_path: Path) -> None:
    labels = read_labels(made_eaf(tmp_path, WORD, [aligned("w", "t0", "t1", "k"), part("p", "", "a")]))
    assert [i.label for i in labels.phones] == ["k"]
    (problem,) = labels.problems
    assert "'w', which is the id of several annotations" in problem.reason and not problem.used


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not an ELAN file"),
        ("hello", "not an ELAN file"),
        (RICH[:3000], "not an ELAN file"),
        ("<a/>", "its root is <a>"),
        ("<ANNOTATION_DOCUMENT/>", "its root is"),
        (RICH.replace("?>\n", "?>\n" + BOMB, 1).replace("noun", "&b;"), "document type"),
        (RICH.replace("?>\n", '?>\n<!DOCTYPE x SYSTEM "file:///etc/passwd">', 1), "document type"),
        ("<a>" * 100_000 + "</a>" * 100_000, "levels deep"),
        (RICH.replace('encoding="UTF-8"', 'encoding="no-such"'), "not an ELAN file"),
        (RICH.replace("milliseconds", "PAL-frames"), "in PAL-frames"),
        (RICH.replace('"./a.wav"', '"./a.wav" TIME_ORIGIN="1500"'), "offset"),
        (RICH.encode().replace(b"noun", b"\xff\xfe"), "not an ELAN file"),
    ],
)
def test_what_is_no_elan_file_is_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = saved(tmp_path, content)
    for act in (lambda: read_labels(path), lambda: eaf_bytes(FOUND, tmp_path / "a.wav", tmp_path / "b.eaf", path)):
        with pytest.raises(DataError, match=said) as caught:
            act()
        assert str(path) in str(caught.value)
    assert time.monotonic() - begin < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kB


def test_a_file_larger_than_any_real_one(tmp_path: Path) -> None:
    path = tmp_path / "a.eaf"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match="too large"):
        read_eaf(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_eaf(tmp_path / "none.eaf")


def test_any_damage_gives_labels_or_a_data_error(tmp_path: Path) -> None:
    draw = random.Random(0)
    read = 0
    for _ in range(400):
        raw = bytearray(RICH.encode())
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(raw))
            raw[place : place + draw.randint(0, 3)] = bytes(
                draw.choice(b'ats12"<> =/x') for _ in range(draw.randint(0, 3))
            )
        path = saved(tmp_path, bytes(raw))
        try:
            read_labels(path)
            read += 1
            read_eaf(saved(tmp_path, eaf_bytes(FOUND, tmp_path / "a.wav", tmp_path / "b.eaf", path), "b.eaf"))
        except DataError as error:
            assert "a.eaf" in str(error)
    assert read > 50


# Writing


def test_a_transcription_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, eaf_bytes(FOUND, tmp_path / "rec" / "my a.wav", tmp_path / "out" / "a.eaf"))
    eaf = Elan.Eaf(str(path))
    assert list(eaf.get_tier_names()) == ["phones-pred", "confidence"]
    assert sorted(eaf.get_annotation_data_for_tier("phones-pred")) == [(100, 250, "t̪ʰ"), (250, 400, "ə")]
    assert sorted(eaf.get_annotation_data_for_tier("confidence")) == [(100, 250, "0.87"), (250, 400, "0.41 zero-shot")]
    (media,) = eaf.get_linked_files()
    assert (media["RELATIVE_MEDIA_URL"], media["MIME_TYPE"]) == ("../rec/my a.wav", "audio/x-wav")
    order = [child.tag for child in read_eaf(path)]
    assert order[:5] == ["HEADER", "TIME_ORDER", "TIER", "TIER", "LINGUISTIC_TYPE"]
    with pytest.raises(MissingPhones, match="machine labels"):
        read_labels(path)


def test_everything_beside_is_kept(tmp_path: Path) -> None:
    beside = saved(tmp_path, RICH)
    out = saved(tmp_path, eaf_bytes(FOUND, tmp_path / "a.wav", tmp_path / "out.eaf", beside), "out.eaf")
    before, after = read_eaf(beside), read_eaf(out)
    own = [tier for tier in after if tier.get("TIER_ID") in ("phones-pred", "confidence")]
    assert after.findall("TIER")[4:] == own
    (kind,) = [each for each in after if each.get("LINGUISTIC_TYPE_ID") == "machine-labels"]
    for element in (*own, kind):
        after.remove(element)
    order = after.find("TIME_ORDER")
    assert order is not None
    ids = [slot.get("TIME_SLOT_ID") for slot in order]
    assert ids == [f"ts{n}" for n in (1, 2, 3, 4)] + ids[4:] and len(set(ids)) == len(ids) == 12
    for slot in order[4:]:
        order.remove(slot)
    last = after.find("HEADER/PROPERTY[@NAME='lastUsedAnnotationId']")
    assert last is not None and last.text is not None and int(last.text) >= 7 + 4
    last.text = "7"
    assert shape(after) == shape(before)
    assert b"<!-- words first -->" in out.read_bytes()
    eaf = Elan.Eaf(str(out))
    assert sorted(eaf.get_annotation_data_for_tier("phones-pred")) == [(100, 250, "t̪ʰ"), (250, 400, "ə")]
    assert [i.label for i in read_labels(out).phones] == ["t̪ʰ", "ə", "ɖ"]


def test_links_lead_to_where_they_led(tmp_path: Path) -> None:
    beside = saved(tmp_path / "rec", RICH)
    out = saved(tmp_path / "out", eaf_bytes(FOUND, tmp_path / "rec" / "a.wav", tmp_path / "out" / "a.eaf", beside))
    media = read_eaf(out).findall("HEADER/MEDIA_DESCRIPTOR")
    assert [each.get("RELATIVE_MEDIA_URL") for each in media] == ["../rec/a.wav", "../video/a.mp4"]
    assert [each.get("MEDIA_URL") for each in media] == ["file:///D:/field/a.wav", "file:///D:/field/a.mp4"]
    link = read_eaf(out).find("HEADER/LINKED_FILE_DESCRIPTOR")
    assert link is not None and link.get("RELATIVE_LINK_URL") == "../rec/a.pitch"
    other = eaf_bytes(FOUND, tmp_path / "rec" / "b.flac", tmp_path / "out" / "a.eaf", beside)
    urls = [
        each.get("RELATIVE_MEDIA_URL") for each in ElementTree.fromstring(other).iterfind("HEADER/MEDIA_DESCRIPTOR")
    ]
    assert urls == ["../rec/a.wav", "../video/a.mp4", "../rec/b.flac"]


def test_tiers_of_an_earlier_transcription_are_replaced(tmp_path: Path) -> None:
    beside = saved(tmp_path, eaf_bytes(FOUND, tmp_path / "a.wav", tmp_path / "a.eaf", saved(tmp_path, RICH)))
    new = Transcription(0.5, (Phone("m", 0.0, 0.5, 0.7),))
    out = saved(tmp_path, eaf_bytes(new, tmp_path / "a.wav", tmp_path / "a.eaf", beside))
    eaf = Elan.Eaf(str(out))
    assert list(eaf.get_tier_names()) == ["words", "phones", "pos", "glosses", "phones-pred", "confidence"]
    assert eaf.get_annotation_data_for_tier("phones-pred") == [(0, 500, "m")]
    assert len(eaf.timeslots) == 4 + 4 and len(eaf.linguistic_types) == 5


def test_a_linguistic_type_of_that_name_with_rules_is_not_taken(tmp_path: Path) -> None:
    beside = saved(tmp_path, RICH.replace('"sub"', '"machine-labels"'))
    root = ElementTree.fromstring(eaf_bytes(FOUND, tmp_path / "a.wav", tmp_path / "b.eaf", beside))
    used = {t.get("TIER_ID"): t.get("LINGUISTIC_TYPE_REF") for t in root.iterfind("TIER")}
    assert (used["phones"], used["phones-pred"]) == ("machine-labels", "machine-labels-2")
    (kind,) = root.findall("LINGUISTIC_TYPE[@LINGUISTIC_TYPE_ID='machine-labels-2']")
    assert kind.get("CONSTRAINTS") is None and kind.get("TIME_ALIGNABLE") == "true"


def test_tiers_that_must_be_kept_under_our_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a tier 'confidence' of other content"):
        eaf_bytes(
            FOUND,
            tmp_path / "a.wav",
            tmp_path / "b.eaf",
            saved(tmp_path, RICH.replace('"pos" LING', '"confidence" LING')),
        )
    renamed = RICH.replace('"words"', '"phones-pred"')
    with pytest.raises(DataError, match="'phones' depends on 'phones-pred'"):
        eaf_bytes(FOUND, tmp_path / "a.wav", tmp_path / "b.eaf", saved(tmp_path, renamed))
