"""How things are said to people."""

from __future__ import annotations

import time

import pytest

from loginonce.text import duration, moment, plain, say


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172800, "2 days")],
)
def test_a_duration_is_said_in_the_unit_that_tells_something(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_moment_is_said_with_its_date_only_on_another_day() -> None:
    noon = time.mktime((2026, 10, 3, 12, 0, 0, 0, 0, -1))
    assert moment(noon + 600, noon) == "12:10 (in 10 min)"
    assert moment(noon - 5, noon) == "11:59:55 (5 s ago)"
    assert moment(noon + 3 * 86400, noon) == "2026-10-06 12:00 (in 3 days)"


def test_plain_text_has_nothing_that_a_terminal_obeys_and_is_no_longer_than_a_name_is() -> None:
    assert plain("a\x1b[31m\r\nb\u202ec") == "a [31m  b c"
    assert plain("x" * 600) == "x" * 499 + "…"


def test_news_go_to_stderr_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("signed in", "as \x1b[1mAda")
    assert capsys.readouterr() == ("", "signed in\nas  [1mAda\n")
