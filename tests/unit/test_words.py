"""Numbers as a reader sees them: nothing looks more certain than it is."""

import pytest

from testbed.report.words import estimate_text
from testbed.statistics import mean_with_interval

pytest.importorskip("scipy")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([1.0], "1.0 dB (no interval: n = 1)"),
        ([1.0] * 24, "1.0 dB (no interval: no spread, n = 24)"),
        ([1.0, 3.0], "2.0 ± 12.7 dB"),  # t of one degree of freedom is 12.706
    ],
)
def test_an_estimate_says_why_it_has_no_interval(values: list[float], shown: str) -> None:
    assert estimate_text(mean_with_interval(values), digits=1, unit="dB") == shown
