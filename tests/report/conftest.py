"""What the tests of tables and of files of a report share: scores on made-up tokens."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_speech.scoring.metrics import NotScored, Scores, score


@pytest.fixture(scope="module")
def scores() -> Scores:
    rng = np.random.default_rng(0)
    true = [*rng.choice(["p", "t̪ʰ", "d͡ʒ", "ɑ̃", "s"], size=95), "ɳ", "ɳ"]
    predicted = [t if rng.random() < 0.7 else str(rng.choice(["p", "s", "x"])) for t in true]
    missing = [NotScored("ɽ", 2, "fewer than K + 1 = 6 examples"), NotScored("ɢ", 1, "fewer than K + 1 = 6 examples")]
    groups = [f"u{i // 5}" for i in range(97)]
    return score([str(t) for t in true], predicted, groups, dict.fromkeys(true, 10), missing, n_bootstrap=100)
