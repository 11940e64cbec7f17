"""The defaults themselves: sound, described, and refused when they are changed to nonsense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mtl_speech.core import options
from mtl_speech.core.errors import ConfigError
from mtl_speech.core.options import AdaptConfig, EncoderConfig, EvaluateOptions, MetaTrainConfig, SuggestOptions
from mtl_speech.core.settings import Config, as_dict, load_config, settings

CLASSES = [value for value in vars(options).values() if isinstance(value, type) and issubclass(value, Config)]
for without in (Config, EvaluateOptions, SuggestOptions):  # these two need what is to be evaluated, or chosen from
    CLASSES.remove(without)


def test_the_classes_are_found() -> None:
    assert {EncoderConfig, MetaTrainConfig, AdaptConfig} <= set(CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_defaults_are_sound_and_described(cls: type[Config]) -> None:
    sample = cls()
    for field in settings(cls):
        assert getattr(sample, field.name) == field.default, "a default is in its own type"
        assert field.help and not field.help.endswith("."), field.name
        if field.type in (int, float):
            assert field.low is not None or field.above is not None, f"{field.name} has no lower bound"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_defaults_survive_yaml_and_json(cls: type[Config], tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    for text in (yaml.safe_dump(as_dict(cls())), json.dumps(as_dict(cls()))):
        path.write_text(text)
        assert load_config(cls, path) == cls()


def test_the_episode_sizes_are_tuples_of_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("n_way: [5, 10]\nn_shot: 1\n")
    loaded = load_config(MetaTrainConfig, path, {"n_query": 10})
    assert (loaded.n_way, loaded.n_shot, loaded.n_query) == ((5, 10), (1,), 10)


@pytest.mark.parametrize(
    ("cls", "values", "problem"),
    [
        (MetaTrainConfig, {"n_way": (1,)}, "n-way: must be at least 2"),
        (MetaTrainConfig, {"theta_init": "prior"}, "theta-init: must be one of previous, random, prototype"),
        (MetaTrainConfig, {"hard_ratio": 1.1}, "hard-ratio: must be at most 1"),
        (AdaptConfig, {"shots": 0}, "shots: must be at least 1"),
        (AdaptConfig, {"meta_steps": -1}, "meta-steps: must be at least 0"),
        (EncoderConfig, {"kernel_size": 4}, "kernel_size: must be odd"),
    ],
)
def test_nonsense_is_refused(cls: type[Config], values: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_config(cls, overrides=values)
