"""Settings: read from plain YAML, checked at once, all problems together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mtl_speech.core.errors import ConfigError
from mtl_speech.core.settings import Config, as_dict, load_config, read_yaml, setting, settings


@dataclass(frozen=True)
class Sample(Config):
    """One field of every type."""

    steps: int = setting(10, "steps", low=1, high=100)
    rate: float = setting(0.1, "rate", above=0, below=1)
    exact: bool = setting(False, "exact")
    start: str = setting("previous", "start", choices=("previous", "random"))
    label: str = setting("x", "label")
    folder: Path = setting(Path("results"), "folder")
    shots: tuple[int, ...] = setting((1, 5), "shots", low=1)
    rates: tuple[float, ...] = setting((0.5,), "rates")
    names: tuple[str, ...] | None = setting(None, "names")
    limit: int | None = setting(None, "limit", low=0)

    def conflicts(self) -> Sequence[str]:
        return ["steps: must be above limit"] if self.limit is not None and self.steps <= self.limit else []


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems_of(tmp_path: Path, text: str | bytes, **overrides: object) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(Sample, write(tmp_path, text), overrides)
    return tuple(problem.removeprefix(f"{tmp_path / 'settings.yaml'}: ") for problem in caught.value.problems)


def test_options_override_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 20\nrate: 0.2\n")
    assert load_config(Sample) == Sample()
    assert load_config(Sample, path) == Sample(steps=20, rate=0.2)
    assert load_config(Sample, path, {"rate": 0.3, "steps": None}) == Sample(steps=20, rate=0.3)


def test_values_of_every_type_are_read(tmp_path: Path) -> None:
    text = "\n".join(
        (
            "steps: 3",
            "rate: 1e-3",  # YAML 1.1 reads this as text
            "exact: true",
            "start: random",
            "label: ''",
            "folder: a/b",
            "shots: [1, 2, 3]",
            "rates: 2",
            "names: [ə, ɽ]",
            "limit: 0",
        )
    )
    sample = load_config(Sample, write(tmp_path, text))
    assert sample == Sample(3, 1e-3, True, "random", "", Path("a/b"), (1, 2, 3), (2.0,), ("ə", "ɽ"), 0)
    assert isinstance(sample.rates[0], float)


def test_tuples_are_read_from_lists_single_values_and_commas(tmp_path: Path) -> None:
    for text in ("[1, 5]", "'1, 5'", "\n- 1\n- 5"):
        assert load_config(Sample, write(tmp_path, f"shots: {text}")).shots == (1, 5)
    assert load_config(Sample, write(tmp_path, "shots: 7")).shots == (7,)
    assert load_config(Sample, overrides={"shots": "3"}).shots == (3,)


def test_all_problems_are_named_together(tmp_path: Path) -> None:
    text = "step: 3\nrate: 1.5\nexact: 1\nstart: previos\nshots: [1, 0]\nzzz: 1\n"
    found = problems_of(tmp_path, text, limit=-1, lmit=2)
    assert found == (
        "step: is not a setting; did you mean 'steps'?",
        "rate: must be below 1, not 1.5",
        "exact: must be true or false, not 1",
        "start: must be one of previous, random, not 'previos'; did you mean 'previous'?",
        "shots: must be at least 1, not 0",
        "zzz: is not a setting; settings are steps, rate, exact, start, label, folder, shots, rates, names, limit",
        "option --limit: must be at least 0, not -1",
        "option --lmit: is not a setting; did you mean 'limit'?",
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("steps: 0", "steps: must be at least 1, not 0"),
        ("steps: 101", "steps: must be at most 100, not 101"),
        ("steps: 2.5", "steps: must be a whole number, not 2.5"),
        ("steps: true", "steps: must be a whole number, not True"),
        ("steps: null", "steps: must be a whole number, not None"),
        ("steps: [1]", "steps: must be a whole number, not [1]"),
        ("rate: 0", "rate: must be above 0, not 0.0"),
        ("rate: .nan", "rate: must be a number, not nan"),
        ("rate: .inf", "rate: must be a number, not inf"),
        ("rate: fast", "rate: must be a number, not 'fast'"),
        ("rate: false", "rate: must be a number, not False"),
        ("rate: " + "9" * 400, "rate: must be a number, not 999999999999999999...9999999999999999999"),
        ("label: 3", "label: must be text, not 3"),
        ("folder: ''", "folder: must be a path, not ''"),
        ("shots: []", "shots: must have at least one item"),
        ("shots: {a: 1}", "shots: must be a whole number, not {'a': 1}"),
        ("shots: 1,x", "shots: must be a whole number, not 'x'"),
    ],
)
def test_wrong_types_and_ranges_are_named(tmp_path: Path, line: str, problem: str) -> None:
    assert problems_of(tmp_path, line) == (problem,)


def test_the_same_checks_hold_in_python() -> None:
    with pytest.raises(ConfigError) as caught:
        Sample(steps=0, rate=2.0)
    assert caught.value.problems == ("steps: must be at least 1, not 0", "rate: must be below 1, not 2.0")
    with pytest.raises(ConfigError, match="steps: must be above limit"):
        Sample(steps=3, limit=3)
    assert Sample(rate=0.5, shots=[2]).shots == (2,)  # type: ignore[arg-type]


def test_conflicts_between_fields_are_found(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "steps: 3", limit=5) == ("steps: must be above limit",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("steps: 1\nsteps: 2\n", "stands more than once: steps"),
        ("[1, 2]", "must be lines of the form 'name: value'"),
        ("hello", "must be lines of the form 'name: value'"),
        ("1: 2", "must be lines of the form 'name: value'"),
        ("steps: [1", "is not plain YAML"),
        (b"\xff\xfe\xfd", "is not plain YAML"),
        ("a: !!python/object/apply:os.system ['true']", "is not plain YAML"),
        ("a: !new:torch.nn.Linear [1, 2]", "is not plain YAML"),
        ("a: !apply:os.system ['true']", "is not plain YAML"),
        ("a: !ref <b>", "is not plain YAML"),
        ("a: !!int ''", "is not plain YAML"),
        ("a: !!timestamp x", "is not plain YAML"),
        ("a: [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]", "nested too deeply"),
        ("a: &x [1]\nb: *x", "it has an alias"),
        ("a: 1\n" * 20_000, "has more than 32,768 bytes"),
        ("\n".join(f"name{i}: 1" for i in range(1000)), "has 1,000 names"),
    ],
)
def test_files_that_are_no_plain_settings_are_refused(tmp_path: Path, text: str | bytes, problem: str) -> None:
    found = problems_of(tmp_path, text)
    assert len(found) == 1
    assert problem in found[0]


ALIASES = [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 60)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [("\n".join(["a0: &a0 {x: 1}", *ALIASES]), "alias"), ("a: " + "[" * 20_000, "nested too deeply")],
    ids=["2^60 entries", "quadratic time"],
)
def test_yaml_bombs_are_refused_at_once(tmp_path: Path, text: str, problem: str) -> None:
    started = time.process_time()
    assert problem in problems_of(tmp_path, text)[0]
    assert time.process_time() - started < 5  # seconds


def test_a_missing_file_is_one_problem_among_the_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Sample, tmp_path / "none.yaml", {"steps": 0})
    assert caught.value.problems == (
        f"{tmp_path / 'none.yaml'}: cannot be read (No such file or directory)",
        "option --steps: must be at least 1, not 0",
    )


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_config(Sample, write(tmp_path, "# only a comment\n")) == Sample()


def test_settings_describe_themselves() -> None:
    described = {field.name: field for field in settings(Sample)}
    assert list(described) == list(as_dict(Sample()))
    assert (described["shots"].type, described["shots"].many, described["shots"].optional) == (int, True, False)
    assert (described["names"].type, described["names"].many, described["names"].optional) == (str, True, True)
    assert (described["limit"].type, described["limit"].option, described["limit"].help) == (int, "--limit", "limit")


def test_a_type_that_settings_do_not_know_is_an_error_of_the_programmer() -> None:
    @dataclass(frozen=True)
    class Odd(Config):
        table: dict[str, int] | None = setting(None, "a table")

    with pytest.raises(TypeError, match="Odd.table"):
        settings(Odd)


@given(
    st.builds(
        Sample,
        steps=st.integers(1, 100),
        rate=st.floats(1e-9, 0.999),
        exact=st.booleans(),
        label=st.text(st.characters(codec="utf-8"), max_size=20),
        shots=st.lists(st.integers(1, 99), min_size=1).map(tuple),
        names=st.none() | st.lists(st.text("abcəɽ", min_size=1), min_size=1).map(tuple),
    )
)
def test_written_settings_are_read_back(tmp_path_factory: pytest.TempPathFactory, sample: Sample) -> None:
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(yaml.safe_dump(as_dict(sample), allow_unicode=True), encoding="utf-8")
    assert load_config(Sample, path) == sample


@given(st.binary(max_size=300) | st.text("ab:-[]{}!&*<>'\"#|,0.1~? \n", max_size=60).map(str.encode))
def test_any_bytes_are_settings_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    try:
        found = read_yaml(path)
    except ConfigError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(key, str) for key in found)
