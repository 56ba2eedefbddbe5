"""The show of `make demo`: its bookkeeping, its two looks, and the whole as a user runs it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from aiosd.demo import show
from aiosd.demo.board import Board, Row, Turn, percentile, summarise
from aiosd.demo.daemon import DaemonError, PrivateDaemon


def turn(agent: str = "ann", *, n: int = 10, wait_ms: int = 0, text: str = "words") -> Turn:
    return Turn(agent, text, n, wait_ms=wait_ms, ttft_ms=500, slices=2, parks=1)


def board(*turns: Turn, policy: str = "rr", elapsed_s: float = 4.0) -> Board:
    rows: dict[str, Row] = {}
    for each in turns:
        rows.setdefault(each.agent, Row(each.agent)).ends_turn(each, is_last=True)
    return Board(policy, rows, elapsed_s=elapsed_s)


def console(*, is_terminal: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=is_terminal, width=100, color_system=None), out


# ---------------------------------------------------------------- bookkeeping


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([7], 90, 7), ([3, 1, 2], 90, 3), (list(range(1, 11)), 90, 9), ([5, 1, 9], 50, 5)],
)
def test_a_percentile_is_one_of_the_values(values: list[int], percent: int, expected: int) -> None:
    assert percentile(values, percent) == expected


def test_a_turn_under_way_counts_once_when_it_ends() -> None:
    row = Row("ann")
    row.says("a few words", 3)
    row.slices_now, row.wait_now_ms, row.parks_now = 1, 700, 0
    assert (row.n_output, row.slices, row.wait_ms, row.parks) == (3, 1, 700, 0)
    row.ends_turn(turn(n=5, wait_ms=900), is_last=False)
    assert (row.n_output, row.slices, row.wait_ms, row.parks) == (5, 2, 900, 1)
    assert row.state == "waiting"
    row.says("more", 1)
    assert row.n_output == 6


def test_an_endless_talker_is_not_kept_whole() -> None:
    row = Row("ann")
    for _ in range(1000):
        row.says("0123456789", 1)
    assert len(row.tail) == 400


def test_a_summary_is_over_all_finished_turns() -> None:
    told = summarise(board(turn(n=30, wait_ms=1000), turn("bob", n=10, wait_ms=3000)))
    assert (told.makespan_s, told.mean_wait_s, told.p90_wait_s) == (4.0, 2.0, 3.0)
    assert (told.tokens_per_s, told.mean_first_word_s) == (10.0, 0.5)
    assert (told.switches, told.parks) == (4, 2)
    assert told.texts == (("ann", "words"), ("bob", "words"))


# ---------------------------------------------------------------- looks


def test_a_pipe_gets_plain_lines_one_every_two_seconds() -> None:
    to, out = console()
    screen = show.open_screen(to)
    running = board(turn())
    for elapsed_s in (0.0, 1.9, 2.1, 3.9, 4.1):
        running.elapsed_s = elapsed_s
        screen.update(running)
    screen.close()
    assert out.getvalue() == (
        "rr     2.1 s  0 running, 0 ready, 1 done, 10 tokens\n"
        "rr     4.1 s  0 running, 0 ready, 1 done, 10 tokens\n"
    )


def test_a_pipe_gets_a_line_for_each_finished_turn() -> None:
    to, out = console()
    show.open_screen(to).turn(board(turn()), turn(wait_ms=1250))
    assert out.getvalue() == (
        "rr     4.0 s  ann gave 10 tokens in 2 slices, waited 1.2 s, parked 1 times\n"
    )


def test_a_terminal_gets_a_table_with_a_row_per_agent() -> None:
    to, out = console(is_terminal=True)
    screen = show.open_screen(to)
    screen.update(board(turn("ann"), turn("bob")))
    screen.close()
    for word in ("agent", "slices", "parks", "ann", "bob", "done"):
        assert word in out.getvalue()


def test_words_of_an_agent_are_never_read_as_markup() -> None:
    to, out = console(is_terminal=True)
    row = Row("ann")
    row.says("[/bold] \n[red]x", 1)
    to.print(show.table(Board("rr", {"ann": row})))
    assert "[/bold] [red]x" in out.getvalue()


def test_the_comparison_has_a_column_per_scheduler_and_counts_equal_answers() -> None:
    to, out = console()
    rr = summarise(board(turn(text="a"), turn("bob", text="b")))
    fifo = summarise(board(turn(text="a"), turn("bob", text="c"), policy="fifo", elapsed_s=5.0))
    show.compare(to, [rr, fifo])
    lines = out.getvalue().splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells[0] == ["all done after (s)", "4.0", "5.0"]
    assert "1 of 2 answers are the same, letter by letter, under rr and fifo." in lines


# ---------------------------------------------------------------- a daemon of one's own


def test_a_daemon_that_cannot_start_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with (
        pytest.raises(DaemonError, match=r"exit code [1-9](.|\n)*slots"),
        PrivateDaemon({"slots": 0}),
    ):
        pytest.fail("a daemon with no slots serves nobody")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- all of it


def demo(tmp_path: Path) -> subprocess.Popen[str]:
    environ: Mapping[str, str] = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "aiosd.demo"]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_runs_both_schedulers_to_the_end_and_leaves_nothing(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        out, _ = running.communicate()
    assert running.returncode == 0, out
    assert "16 of 16 answers are the same, letter by letter, under rr and fifo." in out
    assert "\x1b" not in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_in_the_middle_stops_everything(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        assert running.stdout is not None  # it is a pipe
        for line in running.stdout:
            if "running" in line:
                running.send_signal(signal.SIGINT)
                break
        running.communicate()
    assert running.returncode == 130
    assert list(tmp_path.iterdir()) == []
