"""Figures as people read them."""

from __future__ import annotations

import pytest

from aiosctl import units


@pytest.mark.parametrize(
    ("value_ms", "says"),
    [
        (0, "0ms"),
        (0.2134, "0.213ms"),
        (14.4, "14ms"),
        (999.4, "999ms"),
        (1000, "1.0s"),
        (9940, "9.9s"),
        (9960, "10s"),
        (59_400, "59s"),
        (60_000, "1m00s"),
        (245_000, "4m05s"),
        (7_380_000, "2h03m"),
        (446_400_000, "5d04h"),
    ],
)
def test_a_duration_has_the_two_units_that_matter(value_ms: float, says: str) -> None:
    assert units.milliseconds(value_ms) == says


@pytest.mark.parametrize(
    ("n_bytes", "says"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (1_572_864, "1.5MiB"),
        (268_435_456, "256MiB"),
        (1_073_741_823, "1GiB"),
        (2**50, "1024TiB"),
    ],
)
def test_a_size_is_in_binary_units(n_bytes: int, says: str) -> None:
    assert units.size(n_bytes) == says


@pytest.mark.parametrize(
    ("value", "says"),
    [(0, "0"), (999, "999"), (1500, "1.5k"), (134_515_008, "135M"), (7.2e9, "7.2G")],
)
def test_a_count_drops_the_digits_nobody_needs(value: float, says: str) -> None:
    assert units.count(value) == says


def test_a_moment_in_the_future_is_no_age() -> None:
    assert units.age(10**14) == "0.0s"


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("0", 0), ("4096", 4096), ("512M", 512 * 2**20), ("1.5GiB", 3 * 2**29), ("2kb", 2048)],
)
def test_sizes_are_read_as_people_write_them(text: str, n_bytes: int) -> None:
    assert units.parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "M", "-1", "1 2", "1e3", "12X"])
def test_what_is_no_size_is_refused_with_words(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write a number of bytes, or 512M, 2G"):
        units.parse_size(text)
