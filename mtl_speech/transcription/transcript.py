"""What a transcription is: phones with their times and how sure the model is of each."""

from __future__ import annotations

from dataclasses import dataclass

SILENCE = ""  # the label of a stretch without speech


@dataclass(frozen=True)
class Phone:
    """One stretch of a recording: an IPA phoneme, or SILENCE; its span in seconds; the calibrated probability of the label.

    `zero_shot`: the model has never heard an example of this phoneme.
    """

    phoneme: str
    start: float
    end: float
    confidence: float
    zero_shot: bool = False


@dataclass(frozen=True)
class Transcription:
    """The phones of one recording, in order, from 0 to its end without gap or overlap. `duration` in seconds."""

    duration: float
    phones: tuple[Phone, ...]

    @property
    def spoken(self) -> tuple[Phone, ...]:
        """The phones without silence."""
        return tuple(phone for phone in self.phones if phone.phoneme != SILENCE)
