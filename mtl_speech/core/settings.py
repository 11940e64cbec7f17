"""Settings: frozen dataclasses whose fields are checked at once, with all problems named together.

A group of settings is a frozen dataclass that derives from `Config`, its fields made by `setting`. Values come from
the defaults, a plain YAML file (data only, no code runs), and the options of the command line, the later winning.
The groups themselves, with every default, stand in `config`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import operator
import re
import reprlib
import types
import typing
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mtl_speech.core.errors import ConfigError

C = TypeVar("C", bound="Config")
MAX_FILE_BYTES = 1 << 15
MAX_NAMES = 200
MAX_DEPTH = 16
MAX_INT = 10**18
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


# One keyword for each limit reads as a sentence where a setting is declared.
def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A dataclass field with its help text and its range: low <= x <= high, above < x < below, or one of `choices`.

    The type is read from the field's annotation: bool, int, float, str or Path, `tuple[<one of these>, ...]`
    (at least one item, each within the range), and any of these `| None`.
    """
    limits = {"low": low, "high": high, "above": above, "below": below, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Setting:
    """One field of a `Config` class, described: for reading values, for options and for help texts."""

    name: str
    type: type
    many: bool  # a tuple of `type`
    optional: bool  # None is allowed
    default: object
    help: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        """Its option on the command line."""
        return "--" + self.name.replace("_", "-")

    def read(self, value: object) -> object:
        """`value` in the field's own type. Raises ValueError that says what is needed."""
        if value is None and self.optional:
            return None
        if not self.many:
            return self._read_one(value)
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        items = value if isinstance(value, (list, tuple)) else [value]
        if not items:
            raise ValueError("must have at least one item")
        return tuple(self._read_one(item) for item in items)

    def _read_one(self, value: Any) -> object:
        """One item in the field's type, within the range. Text that is a number will do for one: YAML reads 1e-3 so."""
        found: object = None
        if type(value) is self.type:
            found = value
        elif self.type is float and type(value) in (int, str):
            with contextlib.suppress(ValueError, OverflowError):
                found = float(value)
        elif self.type is int and isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            found = int(value)
        elif self.type is Path and isinstance(value, (str, Path)) and str(value):
            found = Path(value)
        if found is None or (isinstance(found, float) and not math.isfinite(found)) or _unusable(found):
            raise ValueError(f"must be {_WORDS[self.type]}, not {reprlib.repr(value)}")
        self._check_range(found)
        return found

    def _check_range(self, value: Any) -> None:
        """Raises ValueError when `value` is not within the field's range or choices."""
        if self.choices and value not in self.choices:
            near = _nearest(str(value), self.choices)
            hint = f"; {near}" if near else ""
            raise ValueError(f"must be one of {', '.join(self.choices)}, not {reprlib.repr(value)}{hint}")
        for limit, outside, words in (
            (self.low, operator.lt, "at least"),
            (self.high, operator.gt, "at most"),
            (self.above, operator.le, "above"),
            (self.below, operator.ge, "below"),
        ):
            if limit is not None and outside(value, limit):
                raise ValueError(f"must be {words} {limit:g}, not {reprlib.repr(value)}")


def _unusable(value: object) -> bool:
    """Whether a value is too large for 64 bits, text that cannot be written again, or no name of a file."""
    if isinstance(value, str):
        return _HALF_CHARACTER.search(value) is not None
    return (isinstance(value, int) and abs(value) > MAX_INT) or (isinstance(value, Path) and "\0" in str(value))


class Config:
    """Base of the settings classes: checks every field when it is made, from a file or in Python alike."""

    def __post_init__(self) -> None:
        problems = []
        for field in settings(type(self)):
            try:
                object.__setattr__(self, field.name, field.read(getattr(self, field.name)))
            except ValueError as error:
                problems.append(f"{field.name}: {error}")
        if problems or (problems := list(self.conflicts())):
            raise ConfigError(problems)

    def conflicts(self) -> Sequence[str]:
        """Problems between fields that are each sound by itself; a class with such rules overrides this."""
        return ()


def settings(cls: type[Config]) -> tuple[Setting, ...]:
    """The fields of a `Config` dataclass, in order. Raises TypeError for an annotation that `setting` does not know."""
    hints = typing.get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # subclasses are dataclasses, the base is not
        plain, many, optional = hints[field.name], False, False
        if isinstance(plain, types.UnionType):
            optional = type(None) in plain.__args__
            plain = next(part for part in plain.__args__ if part is not type(None))
        if typing.get_origin(plain) is tuple:
            many, plain = True, typing.get_args(plain)[0]
        if plain not in _WORDS:
            raise TypeError(f"{cls.__name__}.{field.name}: settings of the type {hints[field.name]} are not known")
        found.append(Setting(field.name, plain, many, optional, field.default, **field.metadata))
    return tuple(found)


def load_config(cls: type[C], path: Path | None = None, overrides: Mapping[str, object] | None = None) -> C:
    """Settings of the class `cls`: `overrides` (None: not given) over the YAML file `path` over the defaults.

    Raises ConfigError with all problems together: the file, unknown names (with the nearest known one), types, ranges.
    """
    known = {field.name: field for field in settings(cls)}
    values: dict[str, object] = {}
    problems: list[str] = []
    given: list[tuple[str, str, object]] = []  # what it is called where it stands, its name, its value
    try:
        given += [(f"{path}: {key}", key, value) for key, value in (read_yaml(path) if path else {}).items()]
    except ConfigError as error:
        problems += error.problems
    given += [(f"option --{k.replace('_', '-')}", k, v) for k, v in (overrides or {}).items() if v is not None]
    for place, key, value in given:
        try:
            if key not in known:
                raise ValueError(f"is not a setting; {_nearest(key, known) or 'settings are ' + ', '.join(known)}")
            values[key] = known[key].read(value)
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems:
        raise ConfigError(problems)
    return cls(**values)


def as_dict(config: Config) -> dict[str, object]:
    """The settings as plain values for JSON or YAML (tuples as lists, paths as text); `load_config` reads them back."""
    found: dict[str, object] = json.loads(json.dumps(vars(config), default=str))
    return found


def read_yaml(path: Path) -> dict[str, object]:
    """A YAML file that maps names to plain values; tags that make objects are refused. Raises ConfigError."""
    try:
        with open(path, "rb") as stream:
            text = stream.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ValueError(f"has more than {MAX_FILE_BYTES:,} bytes, too many for settings")
        return _parse_yaml(text)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror or error})"]) from error
    except ValueError as error:
        raise ConfigError([f"{path}: {error}"]) from error


def _parse_yaml(text: bytes) -> dict[str, object]:
    """The mapping in a YAML text. Raises ValueError that says what is wrong."""
    import yaml

    try:
        _check_events(yaml.parse(text, Loader=yaml.SafeLoader))
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
    except Exception as error:  # besides YAMLError: KeyError, IndexError, AttributeError ... for odd tags
        raise ValueError(f"is not plain YAML ({' '.join(str(error).split())[:300]})") from error
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError("must be lines of the form 'name: value'")
    counts = Counter(key.value for key, _ in node.value)
    if len(counts) > MAX_NAMES:
        raise ValueError(f"has {len(counts):,} names, too many for settings")
    if twice := [key for key, count in counts.items() if count > 1]:
        raise ValueError(f"stands more than once: {', '.join(twice)}")
    return value


def _check_events(events: Iterable[Any]) -> None:
    """Refuse, before any structure is built, the YAML that would need time or memory beyond the size of its text.

    An alias can stand for 2^n times the file, and deep nesting takes quadratic time. Raises ValueError.
    """
    depth = 0
    for event in events:
        name = type(event).__name__
        depth += name.endswith("StartEvent") - name.endswith("EndEvent")
        if name == "AliasEvent":
            raise ValueError("it has an alias, *name: write the value out")
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")


def _nearest(word: str, known: Iterable[str]) -> str:
    """A question for the known word that is nearest to this one; nothing where none is near."""
    return "".join(f"did you mean '{near}'?" for near in difflib.get_close_matches(word, known, 1))
