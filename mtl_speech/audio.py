"""Audio files to log-mel frames. The audio constants of the whole project stand here, once, with their units."""

from __future__ import annotations

SAMPLE_RATE = 16_000  # Hz
WINDOW_LENGTH = SAMPLE_RATE * 25 // 1000  # samples: 25 ms
HOP_LENGTH = SAMPLE_RATE * 10 // 1000  # samples: 10 ms
FFT_SIZE = 512  # samples
MEL_BANDS = 80
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_LENGTH  # 100
