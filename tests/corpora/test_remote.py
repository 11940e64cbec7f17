"""Corpora behind URLs and in tar files: the same for every command, whole or not there, within their room, and safe to share."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from mtl_speech.commands.cli import main
from mtl_speech.core.cache import DATA_LIMIT
from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.core.run import Run
from mtl_speech.corpora import places, remote
from mtl_speech.corpora.places import shown, url_of
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.corpora.remote import MARKER, local_folder
from tests.command_line import labelled_folder, report, run
from tests.test_readme import ROOT, blocks

N_FILES = 12


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test; gives where corpora go."""
    monkeypatch.setenv("MTL_SPEECH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_folder(tmp_path_factory.mktemp("here") / "words", N_FILES // 2, 2)


@pytest.fixture
def packed(words: Path, tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "words.tar.gz", "w:gz") as archive:
        archive.add(words, "words")
    return tmp_path / "words.tar.gz"


@pytest.fixture
def memory(words: Path) -> Iterator[str]:
    """The corpus in fsspec's object store in memory."""
    fs = fsspec.filesystem("memory")
    fs.put(str(words), "/bucket/words", recursive=True)
    fs.pipe("/bucket/words/.hidden/x.wav", b"-")
    fs.pipe("/bucket/words/notes.txt", b"-")
    yield "memory://bucket/words"
    fs.rm("/bucket", recursive=True)


class Web(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; /forbidden/ is, and /half/ breaks off in the middle of every answer."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("/forbidden"):
            self.send_error(403)
        elif self.path.startswith("/half/") and self.server.breaks:  # type: ignore[attr-defined]
            data = (Path(self.directory) / Path(self.path).name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
        else:
            self.path = self.path.replace("/half/", "/")
            super().do_GET()

    def do_HEAD(self) -> None:
        if self.path.startswith("/forbidden"):
            self.send_error(403)
        else:
            self.path = self.path.replace("/half/", "/")
            super().do_HEAD()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def web(tmp_path: Path, words: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    pytest.importorskip("aiohttp")
    shutil.copytree(words, tmp_path / "words")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Web(*a, directory=str(tmp_path))) as server:
        server.asked, server.breaks = [], True  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def address(server: http.server.ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def fetched(place: str | Path) -> remote.Local:
    with Run(quiet=True) as now:
        return local_folder(Path(place), now)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.rglob("*.tmp")]


# Places


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/corpus",
        "https://host.org:80/words.tar",
        "tar://below/here::s3://bucket/x.tar",
        "memory://x",
        "simplecache::s3://bucket/x",
    ],
)
def test_a_url_survives_being_a_path(url: str) -> None:
    assert url_of(Path(url)) == url


@pytest.mark.parametrize("place", ["my-recordings", "/home/x/words.tar", "C:/words", "a:b/c", "./s3/x", "12:30/x"])
def test_a_path_of_this_machine_is_no_url(place: str) -> None:
    assert url_of(Path(place)) is None


def test_a_folder_stays_where_it_is(words: Path, cache: Path) -> None:
    assert fetched(words) == remote.Local(words) == fetched(f"file://{words}") and not cache.exists()


def test_no_secret_is_shown() -> None:
    assert shown("https://me:word@host/x.tar?X-Amz-Signature=abc") == "https://host/x.tar"


# Every kind of place gives the same corpus


def test_every_kind_of_place_gives_the_same_files(
    words: Path, packed: Path, memory: str, web: http.server.ThreadingHTTPServer, cache: Path
) -> None:
    wanted = contents(words)
    assert len(wanted) == N_FILES
    fsspec.filesystem("memory").pipe("/bucket/words.tar.gz", packed.read_bytes())
    there = [
        *(memory, f"tar://words::{packed}", "tar://words::memory://bucket/words.tar.gz"),
        *(f"{address(web)}/words", f"tar://words::{address(web)}/words.tar.gz"),
    ]
    for place in there:
        local = fetched(place)
        assert contents(local.folder) == wanted and not local.problems, place
        assert local.folder.name == "words" == read_corpus(local.folder).name
    assert not leftovers(cache)


def test_a_tar_has_the_folders_that_it_has(packed: Path, memory: str) -> None:
    fsspec.filesystem("memory").pipe("/bucket/words.tgz", packed.read_bytes())
    for place in (packed, "memory://bucket/words.tgz"):
        utterances = read_corpus(fetched(place).folder).utterances
        assert {(u.id, u.speaker) for u in utterances} == {(f"words/s{n % 2}/u{n:02}", f"s{n % 2}") for n in range(6)}


def test_what_was_fetched_is_not_fetched_again_until_it_changes(
    packed: Path, web: http.server.ThreadingHTTPServer, memory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"{address(web)}/{packed.name}"
    first = fetched(place).folder
    assert fetched(place).folder == first and web.asked == [f"/{packed.name}"]  # type: ignore[attr-defined]
    with tarfile.open(packed, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("words/new.wav"))
    os.utime(packed, (2e9, 2e9))
    again = fetched(place).folder
    assert again != first and set(contents(again)) == {"words/new.wav"}
    store = fetched(memory).folder
    fsspec.filesystem("memory").pipe("/bucket/words/s0/new.wav", b"RIFF")
    assert set(contents(fetched(memory).folder)) - set(contents(store)) == {"s0/new.wav"}


def test_files_that_have_gone_from_the_copy_are_fetched_again(memory: str, words: Path) -> None:
    folder = fetched(memory).folder
    next(folder.rglob("*.wav")).unlink()
    assert fetched(memory).folder == folder and contents(folder) == contents(words)


# Commands


def test_every_command_reads_a_tar_or_a_url(packed: Path, memory: str, tmp_path: Path, words: Path) -> None:
    assert "nothing is left out" in run("validate", memory).output
    small = ("--channels", 8, "--blocks", 1, "--embedding-size", 12, "--epochs", 1, "--augmented-views", 0)
    run("pretrain", packed, *small, "-q", "-o", tmp_path / "base")
    common = ("--base", tmp_path / "base" / "pack", "-q", "-o")
    tasks = ("--n-way", 3, "--n-shot", 1, "--n-query", 2, "--meta-steps", 1, "--valid-tasks", 1, "--valid-share", 0.5)
    run("meta-train", memory, *tasks, "--lang", "pa", *common, tmp_path / "m")
    (tmp_path / "settings.yaml").write_text(f"data: {memory}\nmeta_steps: 0\nlang: pa\n")
    run("adapt", "--config", tmp_path / "settings.yaml", *common, tmp_path / "there")
    run("adapt", "--lang", "pa", "--data", words, "--meta-steps", 0, *common, tmp_path / "here")
    assert report(tmp_path / "there")["scores"] == report(tmp_path / "here")["scores"]
    said = run("adapt", "--lang", "pa", "--data", packed, "--test", memory, *common, tmp_path / "x", code=1).output
    assert "lies in the training and in the test folder" in said
    pack = tmp_path / "there" / "pack"
    run("evaluate", pack, "--data", packed, *common, tmp_path / "e")
    run("transcribe", pack, packed, *common, tmp_path / "t")
    assert len(list((tmp_path / "t").rglob("*.TextGrid"))) == N_FILES // 2
    fsspec.filesystem("memory").rm("/bucket/words/s0/u00.TextGrid")
    assert "u00" in run("suggest", pack, "--pool", memory, *common, tmp_path / "s").output


def test_what_a_tar_has_that_is_not_taken_is_a_problem(words: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(words, "words")
        for name, kind in (
            ("../../escaped.wav", tarfile.REGTYPE),
            ("words/link.wav", tarfile.SYMTYPE),
            ("words/\udcff.wav", tarfile.REGTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    said = run("validate", path, code=1).output
    assert "3 things in it cannot be used" in said
    assert "escaped.wav: its name leads out of the folder" in said and "link.wav: is a link" in said
    assert not list(tmp_path.rglob("escaped.wav")) and not list(tmp_path.rglob("link.wav"))
    again = run("validate", path, code=1).output
    assert said.partition("\n")[2] == again, "told again, though it is not fetched again"


# What goes wrong


def half(packed: Path) -> Path:
    path = packed.with_name("half.tar.gz")
    path.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    return path


def test_errors_say_what_is_wrong_and_where(
    packed: Path, web: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    site = address(web)
    cases = {
        "s3://bucket/corpus": (UsageError, "s3:// needs the package s3fs: pip install s3fs"),
        "nosuch://x": (UsageError, "nosuch:// is no protocol that fsspec knows"),
        "tar://x": (UsageError, "write tar://folder::URL"),
        "tar://../x::memory://y.tar": (UsageError, "write tar://folder::URL"),
        "memory://none": (DataError, "memory://none: there is no such file, folder or bucket"),
        f"{site}/none.tar": (DataError, "there is no such file"),
        f"{site}/forbidden/x.tar": (DataError, "access is refused.*403.*check the credentials"),
        f"{site}/half/{packed.name}": (DataError, "the network failed.*start again"),
        "http://127.0.0.1:9/x.tar": (DataError, "the network failed"),
        "https://host.invalid/x.tar": (DataError, "the network failed"),
        str(half(packed)): (DataError, "half.tar.gz: no tar that can be used"),
    }
    for place, (kind, said) in cases.items():
        with pytest.raises(kind, match=said):
            fetched(place)


def test_a_wrong_place_on_the_command_line_is_a_sentence(packed: Path) -> None:
    assert "no tar that can be used" in run("validate", half(packed), code=1).output
    assert "is no protocol" in run("validate", "nosuch://x", code=2).output


def test_what_was_interrupted_is_never_taken_for_whole_and_goes_on(
    words: Path, memory: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = fsspec.filesystem("memory")
    monkeypatch.setattr(remote, "_BATCH", 4)
    get, asked = type(fs).get, []

    def breaks(self: object, there: list[str], here: list[str], **options: object) -> None:
        asked.append(len(there))
        if len(asked) == 2:
            get(self, there[:2], here[:2], **options)
            Path(here[0]).write_bytes(b"half")
            raise ConnectionError("reset by peer")
        get(self, there, here, **options)

    monkeypatch.setattr(type(fs), "get", breaks)
    with pytest.raises(DataError, match="the network failed .*reset by peer"):
        fetched(memory)
    assert not list(cache.glob("*/" + MARKER)) and not leftovers(cache)
    (entry,) = [path for path in cache.iterdir() if path.is_dir()]
    assert len(contents(entry)) == 4
    assert contents(fetched(memory).folder) == contents(words)
    assert asked == [4, 4, 4, 4], "what came whole is not fetched again"


def test_a_file_that_comes_short_is_an_error(memory: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    fs = type(fsspec.filesystem("memory"))
    get = fs.get

    def short(self: object, there: list[str], here: list[str], **options: object) -> None:
        get(self, there, here, **options)
        Path(here[-1]).write_bytes(Path(here[-1]).read_bytes()[:-1])

    monkeypatch.setattr(fs, "get", short)
    with pytest.raises(DataError, match="bytes of .* came: start again"):
        fetched(memory)
    assert not list(cache.glob("*/" + MARKER)) and not leftovers(cache)


# Room


def test_a_corpus_larger_than_the_room_is_refused(packed: Path, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, gib in ((packed, packed.stat().st_size - 1), (packed, 50_000), (memory, 50_000)):
        monkeypatch.setenv(DATA_LIMIT, str(gib / 2**30))
        with pytest.raises(DataError, match="--data-gib"):
            fetched(place)
    assert "--data-gib" in run("validate", memory, "--data-gib", "0.00001", code=1).output


def test_what_was_used_last_stays_and_what_is_in_use_too(
    memory: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = fsspec.filesystem("memory")
    for name in "abc":
        fs.pipe(f"/bucket/{name}/u.wav", bytes(1000))
    monkeypatch.setenv(DATA_LIMIT, str(2500 / 2**30))
    with Run(quiet=True) as first:
        a = local_folder(Path("memory://bucket/a"), first).folder
        b = fetched("memory://bucket/b").folder
        for number, folder in enumerate((a, b)):
            os.utime(folder.parent / MARKER, (1000 + number,) * 2)
        c = fetched("memory://bucket/c").folder
        assert a.exists() and not b.exists() and c.exists(), "a is in use"
    os.utime(a.parent / MARKER, (1000, 1000))
    fetched("memory://bucket/b")
    assert not a.exists() and b.exists() and c.exists()


FETCHER = """
import sys
from pathlib import Path
from mtl_speech.corpora.remote import local_folder
from mtl_speech.core.run import Run
with Run() as run:
    print(len(list(local_folder(Path(sys.argv[1]), run).folder.rglob("*.wav"))))
"""


def test_two_processes_share_one_copy(packed: Path, cache: Path) -> None:
    command = [sys.executable, "-c", FETCHER, str(packed)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    said = [process.communicate()[0] for process in running]
    assert [text.splitlines()[-1] for text in said] == [str(N_FILES // 2)] * 2
    assert sum("fetching it" in text for text in said) == 1
    fetched(packed)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1
    assert len(list(cache.glob(".*.use"))) == 1, "those of runs that have ended are gone"


def test_the_page_has_commands_and_messages_that_there_are() -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for words in [line.split()[1:] for block in blocks("sh", page) for line in block.splitlines()]:
        options = {option for parameter in main.commands[words[0]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
        assert url_of(Path(words[-1])) == words[-1] or words[-1].endswith(".tar")
    source = "".join(Path(m.__file__).read_text(encoding="utf-8") for m in (places, remote))
    messages = re.findall(r"^\| `([^`]+)` \|", page.split("| message |")[1], re.MULTILINE)
    assert len(messages) == 5 and all(message in source for message in messages)
