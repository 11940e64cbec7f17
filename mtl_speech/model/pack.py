"""Packs: a model, a strategy or a language as a folder of `weights.safetensors` and `card.json`. Data, never code.

What a stranger passes on is read as hostile: see `tensor_files` for how.
The card holds what the maker wrote (name, languages, phonemes, scores, licence ...) and what `save_pack` adds:

- `format_version`, `kind`, `package_version`
- `sha256`: the hash of the tensors' content (`pack_hash`), by which other packs name this one as their base
- `weights`: `sha256` of the file as it lies on the disk, and the `name`, `dtype` and `shape` of each tensor
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, TypeVar, get_args

import torch
from torch import Tensor, nn

from mtl_speech import __version__
from mtl_speech.core.errors import ConfigError, PackError
from mtl_speech.core.files import sync_folder, temporary_sibling, write_synced
from mtl_speech.core.settings import Config, load_config
from mtl_speech.core.tensor_files import (
    DTYPE_NAMES,
    check_folder,
    decode,
    encode,
    header_entries,
    parse_json,
    read_bounded,
    refuse,
)

Kind = Literal["encoder", "strategy", "language"]
KINDS: tuple[Kind, ...] = get_args(Kind)
T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)
C = TypeVar("C", bound=Config)

FORMAT_VERSION = 1
CARD = "card.json"
WEIGHTS = "weights.safetensors"
EARLIER, PACK = "earlier", "pack"  # folders of results: what earlier runs left, and the pack of this one
MAX_CARD_BYTES = 1 << 20
MAX_WEIGHTS_BYTES = 256 << 20
MAX_PHONEMES = 2_000
_HASH = "_sha256"  # where a pack keeps its hash
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Pack:
    """Weights by name, and a card (plain JSON values) that says what they are. Compare by `pack_hash`, not `==`."""

    kind: Kind
    tensors: Mapping[str, Tensor]
    card: Mapping[str, object]

    @property
    def name(self) -> str:
        """The card's `name` on one line, or the kind where the card has none."""
        found = self.card.get("name")
        return " ".join(found.split()) if isinstance(found, str) and found.strip() else self.kind

    def value(self, key: str, type_: type[T]) -> T:
        """The card's entry `key`, which must be of the type `type_` (an int will do for a float). Raises PackError."""
        found = self.card.get(key)
        if type_ is float and type(found) is int:
            found = float(found)
        if isinstance(found, type_) and (type_ is bool or not isinstance(found, bool)):
            return found
        state = "is missing" if found is None else f"is not of the type {type_.__name__}"
        raise PackError(f"{self._place}: '{key}' {state}; make the pack anew")

    def strings(self, key: str) -> tuple[str, ...]:
        """The card's entry `key`, which must be a list of strings. Raises PackError."""
        found = self.value(key, list)
        if not all(isinstance(item, str) for item in found):
            raise PackError(f"{self._place}: '{key}' is not a list of strings; make the pack anew")
        return tuple(found)

    def phonemes(self, key: str = "phonemes") -> tuple[str, ...]:
        """The card's entry `key`, which must be a list of different phonemes. Raises PackError."""
        found = self.strings(key)
        if not 1 <= len(found) <= MAX_PHONEMES or len(set(found)) < len(found) or not all(map(str.strip, found)):
            raise PackError(f"{self._place}: '{key}' is not a list of 1 to {MAX_PHONEMES:,} different phonemes")
        return found

    def settings(self, key: str, kind: type[C]) -> C:
        """The settings of the kind `kind` under the card's entry `key`. Raises PackError."""
        try:
            return load_config(kind, None, self.value(key, dict))
        except ConfigError as error:
            told = f"its {key} settings cannot be used: {error}; make the pack anew"
            raise PackError(f"{CARD} of '{self.name}': {told}") from error

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor `name`, which must have this shape. Raises PackError."""
        if name not in self.tensors or tuple(self.tensors[name].shape) != shape:
            self.misfit(f"'{name}' must have the shape {shape}")
        return self.tensors[name]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, by the rest of their names."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    def fill(self, module: M, tensors: Mapping[str, Tensor]) -> M:
        """Set all tensors of `module`, which is given back. Raises PackError that names what does not fit."""
        self._check(module, tensors)
        module.load_state_dict(dict(tensors))
        return module

    def module(self, make: Callable[[], M], prefix: str) -> M:
        """The module that `make` makes, with the tensors below `prefix`, frozen and in evaluation mode.

        It is made on PyTorch's device without memory first: no tensor is allocated on the word of a card. Raises PackError.
        """
        tensors = self.below(prefix)
        with torch.device("meta"):
            self._check(make(), tensors)
        return self.fill(make(), tensors).requires_grad_(False).eval()

    def _check(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        own = module.state_dict()
        for name in sorted(set(own) | set(tensors)):
            if name not in own or name not in tensors or own[name].shape != tensors[name].shape:
                state = "is missing" if name not in tensors else "does not fit the settings of the card"
                self.misfit(f"tensor '{name}' {state}")

    def misfit(self, what: str) -> NoReturn:
        """Raise the PackError that says what is wrong with the weights."""
        raise PackError(f"{WEIGHTS} of '{self.name}': {what}; make the pack anew")

    def with_card(self, card: Mapping[str, object]) -> Pack:
        """The same weights under another card."""
        pack = Pack(self.kind, self.tensors, card)
        object.__setattr__(pack, _HASH, pack_hash(self))
        return pack

    @property
    def _place(self) -> str:
        return f"{CARD} of the {self.kind} pack '{self.name}'"


def tensors_of(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The tensors of a module as a pack holds them, each name after `prefix`."""
    return {prefix + name: value.detach() for name, value in module.state_dict().items()}


def pack_hash(pack: Pack) -> str:
    """SHA-256 (64 hexadecimal digits) of the tensors: names, types, shapes and bytes, whatever their order.

    A pack is hashed once: what became of its tensors since is told by a pack made anew of them.
    """
    known: str | None = vars(pack).get(_HASH)
    if known is not None:
        return known
    digest = hashlib.sha256()
    for name in sorted(pack.tensors):
        tensor = pack.tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, DTYPE_NAMES[tensor.dtype], list(tensor.shape)]).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    object.__setattr__(pack, _HASH, digest.hexdigest())
    return digest.hexdigest()


def base_entry(base: Pack) -> dict[str, object]:
    """What a card says under `base` about the pack that its weights build on; of an encoder of another maker, how it was taken."""
    how = {"hub": base.card["hub"]} if "hub" in base.card else {}
    return {"name": base.name, "sha256": pack_hash(base), **how}


def require_base(pack: Pack, base: Pack) -> None:
    """Check that `pack` was made on exactly `base`. Raises PackError with both hashes."""
    named = pack.value("base", dict)
    actual = pack_hash(base)
    layers = [
        found.get("layer") if isinstance(found, dict) else None for found in (named.get("hub"), base.card.get("hub"))
    ]
    if named.get("sha256") == actual and layers[0] != layers[1]:
        raise PackError(
            f"{CARD} of the {pack.kind} pack '{pack.name}': it builds on layer {layers[0]} of '{base.name}', and layer "
            f"{layers[1]} is given; leave --encoder-layer out"
        )
    if named.get("sha256") != actual:
        remedy = "give the base that it was made on, or make it anew on this one"
        if "hub" in named:
            remedy = (
                "give --encoder with the encoder that it was made on; export, which has no such option, serves packs on the "
                "built-in encoder alone"
            )
        raise PackError(
            f"{CARD} of the {pack.kind} pack '{pack.name}': it builds on '{named.get('name')}' with the "
            f"SHA-256 {named.get('sha256')}, and the {base.kind} pack '{base.name}' given has {actual}; {remedy}"
        )


def save_pack(pack: Pack, folder: Path | str) -> Path:
    """Write `pack` as the folder `folder`, whole or not at all, and return its path.

    A pack that was there is replaced only when the new one is complete on the disk, and is kept beside it as
    `<name>.previous` (the one kept there before goes). Only packs are replaced: any other folder is refused.
    Raises PackError; what was there is then as it was.
    """
    folder = Path(folder)
    weights = encode(dict(pack.tensors), folder / WEIGHTS, MAX_WEIGHTS_BYTES)
    card = _card_bytes(pack, weights, folder / CARD)
    temporary = temporary_sibling(folder)
    try:
        _check_replaceable(folder)
        _check_replaceable(previous_of(folder))
        temporary.mkdir(parents=True)
        write_synced(temporary / WEIGHTS, weights)
        write_synced(temporary / CARD, card)
        sync_folder(temporary)
        _take_place(temporary, folder)
        sync_folder(folder.parent)
    except OSError as error:
        refuse(folder, f"could not be saved ({error.strerror or error})", "nothing was replaced: mend this, save again")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_pack(folder: Path | str, kind: Kind | None = None, *, max_bytes: int = MAX_WEIGHTS_BYTES) -> Pack:
    """Read the pack in `folder`, checked throughout; with `kind`, only a pack of that kind will do.

    `max_bytes` bounds the weights file. Raises PackError that says which file, what is wrong and what to do.
    """
    folder = Path(folder)
    kept = previous_of(folder)
    remedy = f"a save was cut short: rename {kept} to {folder.name}" if kept.is_dir() else "check the path"
    check_folder(folder, (CARD, WEIGHTS), remedy)
    card = parse_json(read_bounded(folder / CARD, MAX_CARD_BYTES), folder / CARD, "the card")
    found, weights = _check_card(card, folder / CARD)
    if kind is not None and found != kind:
        refuse(folder, f"is of the kind '{found}', and '{kind}' is needed here", f"give a pack of the kind '{kind}'")
    path = folder / WEIGHTS
    data = read_bounded(path, max_bytes)
    declared = _declared(data, path)
    actual = hashlib.sha256(data).hexdigest()
    if actual != weights["sha256"]:
        refuse(path, f"has the SHA-256 {actual}, and {CARD} says {weights['sha256']}")
    if declared != weights["tensors"]:
        refuse(path, f"holds other tensors than {CARD} lists")
    pack = Pack(found, decode(data, path), card)
    if pack_hash(pack) != card["sha256"]:
        refuse(folder / CARD, f"says the tensors have the SHA-256 {card['sha256']}, and they have {pack_hash(pack)}")
    return pack


def previous_of(folder: Path) -> Path:
    """Where `save_pack` keeps the pack that it replaced."""
    return folder.with_name(folder.name + ".previous")


def _declared(weights: bytes, path: Path) -> list[dict[str, object]]:
    """The tensors in safetensors bytes as a card lists them, by name."""
    entries = sorted(header_entries(weights, path), key=lambda entry: entry.name)
    return [{"name": entry.name, "dtype": entry.dtype, "shape": list(entry.shape)} for entry in entries]


def _card_bytes(pack: Pack, weights: bytes, path: Path) -> bytes:
    """The completed card of `pack`. Raises PackError when `load_pack` would refuse it."""
    added = {
        "format_version": FORMAT_VERSION,
        "kind": pack.kind,
        "package_version": __version__,
        "sha256": pack_hash(pack),
        "weights": {"sha256": hashlib.sha256(weights).hexdigest(), "tensors": _declared(weights, path)},
    }
    try:
        data = json.dumps({**pack.card, **added}, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        refuse(path, f"the card is not plain JSON ({error})", "use strings, finite numbers, lists and dicts only")
    if len(data) > MAX_CARD_BYTES:
        refuse(path, f"the card has {len(data):,} bytes, more than the {MAX_CARD_BYTES:,} allowed", "shorten it")
    _check_card(parse_json(data, path, "the card"), path)
    return data


def _check_card(card: dict[str, object], path: Path) -> tuple[Kind, dict[str, object]]:
    """The kind and the `weights` entry of a card, after checking it against the schema. Raises PackError."""
    version = card.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        remedy = f"this mtl-speech ({__version__}) reads format {FORMAT_VERSION}: install the version that fits"
        refuse(path, f"has the unknown format version {str(version)[:20]}", remedy)
    kind = next((known for known in KINDS if known == card.get("kind")), None)
    if kind is None:
        refuse(path, f"has the unknown kind {str(card.get('kind'))[:20]!r}; known are {', '.join(KINDS)}")
    weights = card.get("weights")
    if not isinstance(weights, dict) or weights.keys() != {"sha256", "tensors"}:
        refuse(path, "'weights' does not hold sha256 and tensors alone")
    hashes = {"sha256": card.get("sha256"), "weights.sha256": weights["sha256"]}
    base = card.get("base")
    if base is not None:
        if (
            not isinstance(base, dict)
            or base.keys() - {"hub"} != {"name", "sha256"}
            or not isinstance(base["name"], str)
            or ("hub" in base and not _tells_hub(base["hub"]))
        ):
            refuse(path, "'base' does not hold name and sha256 alone, or what the layer and Φ of an encoder were")
        hashes["base.sha256"] = base["sha256"]
    for key, value in hashes.items():
        if not isinstance(value, str) or not SHA256.fullmatch(value):
            refuse(path, f"'{key}' is not a SHA-256 (64 hexadecimal digits)")
    return kind, weights


def _tells_hub(how: object) -> bool:
    """Whether this is what a card says of an encoder of another maker: its layer, the patterns of layers that carry Φ, and the
    hash of the model whose segmenter finds the boundaries."""
    if not isinstance(how, dict) or how.keys() != {"layer", "phi", "segmenter"} or not isinstance(how["phi"], list):
        return False
    return all(isinstance(each, str) for each in (how["layer"], how["segmenter"], *how["phi"]))


def _check_replaceable(folder: Path) -> None:
    """Check that nothing but a pack would be moved or removed at `folder`. Raises PackError, OSError."""
    remedy = "it is left alone: move it away, or choose another name"
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        refuse(folder, "exists and is not a pack", remedy)
    if folder.is_dir():
        others = sorted(entry.name for entry in folder.iterdir() if entry.name not in (CARD, WEIGHTS))
        if others:
            refuse(folder, f"holds other things than a pack ({', '.join(others)[:80]})", remedy)


def _take_place(new: Path, folder: Path) -> None:
    """Rename the complete pack `new` to `folder`, and what was there to `.previous`. Raises OSError after undoing."""
    previous, oldest = previous_of(folder), temporary_sibling(folder)
    if not folder.is_dir():
        os.rename(new, folder)
        return
    if previous.is_dir():
        os.rename(previous, oldest)
    try:
        os.rename(folder, previous)
        os.rename(new, folder)
    except BaseException:
        if not folder.is_dir():
            os.rename(previous, folder)
        if oldest.is_dir():
            os.rename(oldest, previous)
        raise
    shutil.rmtree(oldest, ignore_errors=True)
