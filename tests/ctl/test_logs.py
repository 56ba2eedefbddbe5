"""`aiosctl logs`, over a stand-in for journalctl that notes what it was asked."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.ctl.conftest import Ctl

STAND_IN = """#!{python}
import json, sys
from pathlib import Path
Path({asked!r}).write_text(json.dumps(sys.argv[1:]))
sys.stdout.write(Path({says!r}).read_text())
sys.exit(int(Path({code!r}).read_text()))
"""
ENTRIES = [
    {
        "__REALTIME_TIMESTAMP": "1700000001500000",
        "MESSAGE": "syscall name=llm.generate agent=alice outcome=ok",
        "PRIORITY": "6",
        "AIOSD_EVENT": "syscall",
        "AIOSD_NAME": "llm.generate",
        "AIOSD_AGENT": "alice",
        "AIOSD_OUTCOME": "ok",
        "_PID": "7",
    },
    {
        "__REALTIME_TIMESTAMP": "1700000002000000",
        "MESSAGE": [98, 117, 103, 27, 91, 51, 49, 109],
        "PRIORITY": "3",
        "_PID": "1",
    },
]


class Journal:
    """The stand-in: what it is to say, and what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.says, self.code = directory / "says", directory / "code"
        self._asked = directory / "asked"
        program = directory / "journalctl"
        program.write_text(
            STAND_IN.format(
                python=sys.executable,
                asked=str(self._asked),
                says=str(self.says),
                code=str(self.code),
            )
        )
        program.chmod(0o755)
        self.says.write_text("".join(json.dumps(entry) + "\n" for entry in ENTRIES))
        self.code.write_text("0")
        self.env = {"PATH": str(directory), "TZ": "UTC"}

    @property
    def asked(self) -> list[str]:
        return [word for word in json.loads(self._asked.read_text()) if word not in ALWAYS]


ALWAYS = ("--output=json", "--all", "--quiet", "--no-pager")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def test_lines_are_told_with_time_and_what_is_grave(ctl: Ctl, journal: Journal) -> None:
    done = ctl("logs", env=journal.env)
    assert done.stdout == (
        "2023-11-14 22:13:21  syscall name=llm.generate agent=alice outcome=ok\n"
        "2023-11-14 22:13:22  error: bug\x1b[31m\n"
    )  # whole in a pipe; a terminal gets no control characters
    assert (done.stderr, done.returncode) == ("", 0)
    assert journal.asked == ["--user-unit=aiosd", "--lines=200"]


def test_as_json_they_are_what_aiosd_itself_would_write(ctl: Ctl, journal: Journal) -> None:
    first, second = map(json.loads, ctl("logs", "--json", env=journal.env).stdout.splitlines())
    assert first == {
        "timestamp": "2023-11-14T22:13:21.500000+00:00",
        "level": "info",
        "event": "syscall",
        "name": "llm.generate",
        "agent": "alice",
        "outcome": "ok",
    }
    assert (second["level"], second["message"]) == ("error", "bug\x1b[31m")


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        (("-f",), ["--user-unit=aiosd", "--lines=200", "--follow"]),
        (("--since", "-2h"), ["--user-unit=aiosd", "--since=-2h"]),
        (("-n", "5", "--system"), ["--unit=aiosd", "--lines=5"]),
        (("--socket", "/run/aiosd/aiosd.sock"), ["--unit=aiosd", "--lines=200"]),
        (
            ("--agent", "alice", "--job", "j1"),
            ["--user-unit=aiosd", "--lines=200", "AIOSD_AGENT=alice", "AIOSD_JOB=j1"],
        ),
    ],
)
def test_options_are_journalctls_and_names_are_fields(
    ctl: Ctl, journal: Journal, args: tuple[str, ...], asked: list[str]
) -> None:
    assert ctl("logs", *args, env=journal.env).returncode == 0
    assert journal.asked == asked


def test_without_lines_it_says_where_else_to_look(ctl: Ctl, journal: Journal) -> None:
    journal.says.write_text("")
    done = ctl("logs", env=journal.env)
    assert (done.stdout, done.returncode) == ("", 0)
    assert "no lines of aiosd in your user's journal; --system looks in the other" in done.stderr
    assert "'aiosd 2> aiosd.log'" in done.stderr


def test_journalctls_failure_is_ours(ctl: Ctl, journal: Journal) -> None:
    journal.says.write_text("")
    journal.code.write_text("1")
    done = ctl("logs", env=journal.env)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 1)


def test_without_a_journal_it_says_so(ctl: Ctl, tmp_path: Path) -> None:
    done = ctl("logs", env={"PATH": str(tmp_path)})
    assert (done.stdout, done.returncode) == ("", 1)
    assert "there is no journalctl here" in done.stderr
    assert "'aiosd 2> aiosd.log'" in done.stderr


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="needs journalctl")
def test_the_real_journalctl_takes_these_options(ctl: Ctl) -> None:
    done = ctl("logs", "--job", "j1", "--agent", "alice", "--since", "-1min", "-n", "1")
    assert (done.stdout, done.returncode) == ("", 0), done.stderr
    assert "no lines like these" in done.stderr
