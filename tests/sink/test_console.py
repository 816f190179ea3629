"""The terminal: nothing is wider than it is; a log file has whole lines."""

from __future__ import annotations

import os
import sys

import pytest

from lth.sink.console import Console, columns

ROW = {
    "level": 2,
    "levels": 7,
    "done": 99,
    "of": 110,
    "variant": "random_reinit",
    "seed": 0,
    "step": 1350,
    "last_step": 10000,
    "loss": 0.0731,
    "seconds_left": 57.0,
}


def terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((width, 24)))


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_a_progress_line_is_one_line_of_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(monkeypatch, width)
    Console().progress(ROW)
    shown = capsys.readouterr().out.removeprefix("\r\033[2K")
    assert len(shown) < width
    assert shown.startswith("level 2 of 7")
    assert ("57 s left" in shown) == (width >= 80)
    assert ("loss 0.0731" in shown) == (width == 200)


def test_a_plan_is_broken_under_its_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(monkeypatch, 40)
    Console().open({"text": ["  levels     0 to 7; seeds 0,1,2,3,4; controls random_reinit"]})
    assert capsys.readouterr().out == (
        "  levels     0 to 7; seeds 0,1,2,3,4;\n             controls random_reinit\n"
    )


def test_a_path_stays_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(monkeypatch, 30)
    Console().open({"text": ["  store      my-results/run/25d4f23d0f13bf5d"]})
    assert "my-results/run/25d4f23d0f13bf5d\n" in capsys.readouterr().out


def test_a_file_has_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert columns() is None  # as pytest's output is captured
    Console().open({"text": ["a " * 100]})
    assert capsys.readouterr().out == "a " * 100 + "\n"
