"""Prepare TIMIT: the folders TRAIN and TEST in upper or lower case, audio as SPHERE or RIFF, phones folded from 61 to 48 labels.

Training: all speakers of TRAIN. Validation: the usual 50 speakers of TEST. Test: the 24 speakers of the core test set. The two SA
sentences, which all speakers read, are left out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.corpus import Corpus, Utterance
from mtl_speech.corpora.label_files.label_lines import read_folded_phn
from mtl_speech.corpora.manifest import Counts, Prepared, compare_counts, speakers_of, validated
from mtl_speech.corpora.reading import read_corpus

# Eight sentences a speaker without SA: 630 speakers and 6,300 sentences in all, by TIMIT's own documentation.
PUBLISHED = {"train": Counts(462, 3_696), "valid": Counts(50, 400), "test": Counts(24, 192)}

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


def prepare(data_folder: Path, output: Path) -> Prepared:
    """Read the corpus; the manifest goes to `output`.

    Raises DataError: the layout is another one, a split is empty, or a speaker is in two of them.
    """
    train, test = (_read(find_part(data_folder, name)) for name in ("train", "test"))
    splits = {
        "train": train,
        "valid": test.filter(lambda u: u.speaker in DEV_SPEAKERS),
        "test": test.filter(lambda u: u.speaker in CORE_TEST_SPEAKERS),
    }
    notes = [
        note
        for name, split in splits.items()
        for note in compare_counts(name, Counts(len(speakers_of(split)), len(split.utterances)), PUBLISHED[name])
    ]
    return validated(splits, notes, output, data_folder)


def find_part(data_folder: Path, name: str) -> Path:
    """The one folder TRAIN or TEST, in any case, in the data folder or one or two folders below."""
    below = (path for pattern in ("*", "*/*", "*/*/*") for path in data_folder.glob(pattern))
    found = sorted(path for path in below if path.name.lower() == name and path.is_dir())
    if len(found) != 1:
        listed = f": {', '.join(map(str, found))}" if found else ""
        raise DataError(f"{data_folder}: expected one folder {name.upper()} of TIMIT in it, found {len(found)}{listed}")
    return found[0]


def _read(folder: Path) -> Corpus:
    corpus = read_corpus(folder, "en", "timit", readers={".phn": read_folded_phn})
    kept = tuple(replace(u, speaker=u.speaker.lower()) for u in corpus.utterances if not _is_sa(u))
    return Corpus(corpus.name.lower(), kept, corpus.problems)


def _is_sa(utterance: Utterance) -> bool:
    return utterance.id.rpartition("/")[2].lower() in ("sa1", "sa2")
