"""`aiosctl top`: what it shows, that it fits, and its keys in a real terminal."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiosctl.top import screen
from aiosctl.top.board import Board, Sample
from tests.ctl.conftest import LIMIT_S, Ctl, command, environment
from tests.ctl.peer import AGENT, CORE, JOBS, STATUS, Call, Peer

PATIENCE_S = 30.0

# ---------------------------------------------------------------- the board


def sample(at_s: float, n_output: int = 0, **job: Any) -> Sample:
    """A daemon that has written so many tokens in all, and in the first job."""
    core = {**CORE, "tokens": {**CORE["tokens"], "output": n_output}}  # type: ignore[dict-item]
    jobs = [{**JOBS[0], "n_output": n_output, **job}, *JOBS[1:]]
    return Sample(at_s, {**STATUS, "cores": [core]}, jobs, [AGENT])


def board(*samples: Sample) -> Board:
    made = Board()
    for each in samples:
        made.take(each)
    return made


def names(made: Board) -> list[str]:
    return [row["job"] for row in made.rows()]


def test_rates_are_differences_over_the_time_between_two_samples() -> None:
    made = board(sample(10, 100), sample(12, 150))
    assert made.rates()["output"] == 25
    assert [row["rate"] for row in made.rows()] == [25, 0, 0]


def test_a_daemon_that_was_started_anew_has_no_rates_of_the_old_one() -> None:
    made = board(sample(10, 100), sample(12, 50))
    assert made.rates()["output"] == 0
    made.take(Sample(13, {**STATUS, "pid": 1}, [], []))
    assert made.rates()["output"] == 0


def test_rows_are_sorted_by_any_column_both_ways() -> None:
    made = board(sample(1))
    assert names(made) == ["j1", "j2", "j3"]  # by agent
    made.reverse()
    assert names(made) == ["j3", "j2", "j1"]
    shown = list(screen.fitted(made, made.rows(), 120))
    while made.sorted_by["jobs"] != "parks":
        made.sort_next(1, shown)
    assert names(made) == ["j1", "j2", "j3"]  # numbers: the greatest first, ties by id
    for _ in shown:
        made.sort_next(-1, shown)
    assert made.sorted_by["jobs"] == "job"


def test_the_cursor_stays_with_its_job_while_that_moves_and_with_its_line_when_it_ends() -> None:
    made = board(sample(1))
    made.move(1)
    assert made.chosen() == {**JOBS[1], "rate": 0.0, "waits": None}
    made.reverse()
    made.move(-1)
    assert made.chosen() == {**JOBS[2], "rate": 0.0, "waits": None}
    made.take(Sample(2, STATUS, JOBS[:2], []))
    assert made.chosen() == {**JOBS[1], "rate": 0.0, "waits": None}
    made.take(Sample(3, STATUS, [], []))
    assert made.chosen() is None


# ---------------------------------------------------------------- the screen


@given(st.integers(40, 200), st.integers(10, 60), st.integers(0, 40), st.data())
@settings(max_examples=50, deadline=None)
def test_a_screen_has_exactly_its_size(
    width: int, height: int, n_jobs: int, data: st.DataObject
) -> None:
    jobs = [
        {**JOBS[0], "job": f"j{number:016x}", "agent": data.draw(st.sampled_from(["a", "b" * 64]))}
        for number in range(n_jobs)
    ]
    made = board(Sample(1, STATUS, jobs, [AGENT] * n_jobs))
    for view in ("jobs", "agents", "slots"):
        made.view = view
        made.move(data.draw(st.integers(-100, 100)))
        lines = screen.lines(made, width, height, message=data.draw(st.text(max_size=300)))
        assert len(lines) == height
        assert all(len("".join(text for text, _ in line)) <= width for line in lines)


def test_the_row_of_the_cursor_is_always_on_the_screen() -> None:
    jobs = [{**JOBS[0], "job": f"j{number}", "agent": f"a{number:03}"} for number in range(100)]
    made = board(Sample(1, STATUS, jobs, []))
    for by in (0, 50, 100, -30, -100):
        made.move(by)
        chosen = made.chosen()
        assert chosen is not None
        texts = ["".join(text for text, _ in line) for line in screen.lines(made, 80, 24)]
        assert any(f" {chosen['agent']} " in text for text in texts)


def test_80_columns_show_what_matters() -> None:
    made = board(sample(1))
    titles = [column.title for column in screen.fitted(made, made.rows(), 80)]
    assert titles[:2] == ["JOB", "AGENT"]
    assert {"STATE", "TOKENS", "TOK/S", "CLASS", "WAITED"} <= set(titles)


# ---------------------------------------------------------------- in a pipe


def test_once_prints_one_screen_and_a_pipe_gets_no_other(ctl: Ctl, peer: Peer) -> None:
    slots = [{"slot": 5, "context": "c1", "uid": 1000, "agent": "alice", "running": True}]
    core = {**CORE, "slots_used": 6, "slots": slots}
    peer.answers["sys.status"] = {**STATUS, "cores": [core]}
    done = ctl("top", "--once")
    assert (done.stderr, done.returncode) == ("", 0)
    lines = done.stdout.splitlines()
    assert (
        lines[0] == "aiosd 0.1.0  serving  up 1h02m  3 agents  4 jobs: 1 ready, 2 running, 1 paused"
    )
    assert lines[1] == "smollm2  rr 16  lanes 2/4  slots 6/8  queue 1  steps/s 0"
    assert [" ".join(line.split()) for line in lines if line.startswith("j")] == [
        "j1 alice 1000 running normal 41 0.0 3.2s 2 10 c1",
        "j2 bob 1000 paused background 0 0.0 15ms 0 0 c2",
        "j3 carol 1001 ready interactive 7 0.0 0ms 0 1 c3",
    ]
    assert "   5  running  alice  1000  c1" in lines
    assert ctl("top").stdout == done.stdout


def test_json_is_one_object(ctl: Ctl) -> None:
    result = json.loads(ctl("top", "--json").stdout)
    assert set(result) == {"status", "rates", "jobs", "agents"}
    assert [job["job"] for job in result["jobs"]] == ["j1", "j2", "j3"]
    assert result["rates"]["output"] == 0


def test_without_a_daemon_it_says_so(ctl: Ctl) -> None:
    done = ctl("top", "--once", "--socket", "/nowhere/s.sock")
    assert done.returncode == 3
    assert "no daemon at /nowhere/s.sock" in done.stderr


# ---------------------------------------------------------------- in a real terminal


class Tmux:
    """aiosctl top in a terminal of 80x24; afterwards what it left is there to be seen."""

    def __init__(self, directory: Path, peer: Peer) -> None:
        self._socket = str(directory / "tmux.sock")
        words = environment(peer.path) | {"TERM": "screen-256color", "HOME": str(directory)}
        setting = [f"{name}={value}" for name, value in words.items()]
        shown = shlex.join(["env", "-i", *setting, *command("top", "--delay", "0.2")])
        self("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24",
             f"{shown}; echo left with $?; stty -a; cat")  # fmt: skip

    def __call__(self, *args: str) -> str:
        env = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "screen-256color"}
        env.pop("TMUX", None)
        done = subprocess.run(
            ["tmux", "-S", self._socket, *args],
            capture_output=True, text=True, timeout=LIMIT_S, check=True, env=env,
        )  # fmt: skip
        return done.stdout

    def press(self, *keys: str) -> None:
        self("send-keys", *keys)

    def shows(self, *texts: str) -> str:
        """Wait until all of them are on the screen; what is there then."""
        return self.shows_when(lambda screen: all(text in screen for text in texts), repr(texts))

    def shows_when(self, is_right: Callable[[str], bool], what: str) -> str:
        until = time.monotonic() + PATIENCE_S
        while True:  # each look takes a process: no sleep is needed between two
            shown = self("capture-pane", "-p")
            if is_right(shown):
                return shown
            if time.monotonic() > until:
                raise AssertionError(f"{what} never came; there is\n{shown}")

    def asks(self, text: str) -> str:
        return self("display-message", "-p", text).strip()


@pytest.fixture
def tmux(socket_dir: Path, peer: Peer) -> Iterator[Tmux]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed (apt install tmux)")
    terminal = Tmux(socket_dir, peer)
    yield terminal
    terminal("kill-server")


def happens(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_person_steers_jobs_by_keys(tmux: Tmux, peer: Peer) -> None:
    shown = tmux.shows("aiosd 0.1.0", "alice", "bob", "carol", "q quit")
    assert len(shown.splitlines()) == 24
    tmux.press("p")
    tmux.shows("paused j1")
    tmux.press("Down", "r")
    tmux.shows("resumed j2")
    tmux.press("b")
    tmux.shows("j2 is background now")
    tmux.press("k")
    tmux.shows("kill j2 of bob?", "y: yes")
    tmux.press("x")
    tmux.shows_when(lambda screen: "kill j2" not in screen, "the end of the question")
    assert peer.asked("job.cancel") == []
    tmux.press("k", "y")
    tmux.shows("killed j2")
    assert peer.asked("job.pause") == [{"job": "j1"}]
    assert peer.asked("job.resume") == [{"job": "j2"}]
    assert peer.asked("job.cancel") == [{"job": "j2"}]
    assert peer.asked("job.priority") == [{"job": "j2", "priority": "background"}]
    tmux.press("Tab")
    tmux.shows("CONNECTIONS")
    tmux.press("k")
    tmux.shows("kill agent alice")
    tmux.press("y")
    tmux.shows("killed agent alice")
    tmux.press("?")
    tmux.shows("aiosctl top: the keys")
    tmux.press("q")  # any key leaves the help, this one leaves top
    tmux.shows("left with 0")


def test_sorting_freezing_and_resizing(tmux: Tmux, peer: Peer) -> None:
    def order(screen: str) -> list[str]:
        return [line.split()[0] for line in screen.splitlines() if line[:1] == "j"]

    tmux.shows("alice")
    tmux.press("s")
    tmux.shows_when(lambda screen: order(screen) == ["j3", "j2", "j1"], "the other order")
    tmux.press("Left")
    tmux.shows_when(lambda screen: order(screen) == ["j1", "j2", "j3"], "the order by job")
    tmux("resize-window", "-x", "120", "-y", "30")
    tmux.shows("CONTEXT", "space freeze")
    tmux("resize-window", "-x", "30", "-y", "8")
    tmux.shows("30x8 is too small")
    tmux("resize-window", "-x", "80", "-y", "24")
    tmux.shows("carol", "q quit")
    tmux.press("Space")
    tmux.shows("frozen")
    tmux.press("Space")
    tmux.shows_when(lambda screen: "frozen" not in screen, "the thaw")
    peer.answers["job.list"] = {"jobs": []}
    tmux.shows("no jobs")


@pytest.mark.parametrize("key", ["q", "C-c"])
def test_the_terminal_is_left_as_it_was(tmux: Tmux, key: str) -> None:
    tmux.shows("carol")
    assert (tmux.asks("#{alternate_on}"), tmux.asks("#{cursor_flag}")) == ("1", "0")
    tmux.press(key)
    shown = tmux.shows("left with 0", " echo ", " icanon ", "susp = ^Z")
    assert "carol" not in shown
    assert (tmux.asks("#{alternate_on}"), tmux.asks("#{cursor_flag}")) == ("0", "1")


def test_a_daemon_that_goes_and_comes_back_is_told(tmux: Tmux, peer: Peer) -> None:
    refused = peer.answers["sys.status"]

    def gone(call: Call) -> dict[str, Any]:
        call.connection.sock.close()
        raise OSError

    tmux.shows("carol")
    peer.answers["sys.status"] = gone
    tmux.shows("the daemon is gone, trying again", "carol", "q quit")
    peer.answers["sys.status"] = refused
    tmux.shows("the daemon is back")
    tmux.press("q")
    tmux.shows("left with 0")


def test_a_call_that_is_refused_is_said_and_top_goes_on(tmux: Tmux, peer: Peer) -> None:
    tmux.shows("alice")
    peer.answers["job.list"] = {"jobs": JOBS[:1]}
    del peer.answers["job.pause"]
    tmux.press("p")
    tmux.shows("no syscall 'job.pause'")
    happens(lambda: len(peer.asked("sys.status")) > 3)
    tmux.press("q")
    tmux.shows("left with 0")
