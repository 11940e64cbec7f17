"""The exceptions that a person can act on: what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class MtlSpeechError(Exception):
    """Base of every error that the package raises on purpose; the command line prints it and exits with `exit_code`."""

    exit_code = 1


class UsageError(MtlSpeechError):
    """A command, an option or a setting is wrong (exit code 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """Settings that cannot be used. Holds every problem found, not only the first."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(MtlSpeechError):
    """Audio, labels or a corpus that cannot be used."""


class PackError(MtlSpeechError):
    """A model, strategy or language pack that is damaged, foreign, or does not fit its base."""
