import pytest

from empssl.errors import UsageError
from empssl.training.budget import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172_800), ("0.5s", 0.5),
     ("1d2h3m4s", 93_784)],
)  # fmt: skip
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "10", "m", "ten minutes", "10 m", "10m!", "-10m", "1.h", ".5h", "1e3s", "0s", "0h0m",
     "10M", "10min"],
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match=f"'{text}' is no duration; write it as 90s, 10m, 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1s"), (59.4, "59s"), (60, "1m"), (150, "2m30s"), (3600, "1h"), (3605, "1h"),
     (5400, "1h30m"), (86_400 + 7200 + 300, "1d2h")],
)  # fmt: skip
def test_durations_are_told_as_they_are_typed(seconds: int | float, text: str) -> None:
    assert format_duration(seconds) == text
    assert parse_duration(text) == pytest.approx(seconds, rel=0.1, abs=1)
