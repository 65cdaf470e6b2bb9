"""Numbers as a reader sees them: nothing looks more certain than it is."""

import pytest

from testbed.report.words import estimate_text, seconds_text
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


@pytest.mark.parametrize(
    ("duration_s", "shown"),
    [(0.0123, "12.3 ms"), (1.5, "1.5 s"), (150.0, "2.5 min"), (139_339.0, "38.7 h")],
)
def test_a_duration_comes_in_the_unit_that_suits_it(duration_s: float, shown: str) -> None:
    assert seconds_text(duration_s) == shown
