"""The log: fields for the journal, and tracebacks that tell where and not what."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from aios_sdk.errors import NotFound
from aiosd import journald, logs, tracebacks

SCRIPT = """
import sys
import structlog
from pathlib import Path
from aiosd import journald, logs
journald.SOCKET = Path({socket!r})
journald.Journal.__init__.__defaults__ = (journald.SOCKET,)
logs.configure("debug", {form!r})
log = structlog.get_logger()
log.info("syscall", name="llm.generate", agent="alice", job="j1", uid=1000, finish=None, ms=1.5)
try:
    {{}}["a secret"]
except KeyError:
    log.exception("bug", id="b1")
{more}
logs.flush(20)
"""


def parse(entry: bytes) -> dict[str, str]:
    """An entry as the journal reads it."""
    fields = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if equals:
            entry = rest
        else:
            (length,) = struct.unpack("<Q", rest[:8])
            value, entry = rest[8 : 8 + length], rest[9 + length :]
            assert rest[8 + length : 9 + length] == b"\n"
        fields[key.decode()] = value.decode()
    return fields


def run(tmp_path: Path, form: str, more: str = "") -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(socket=str(tmp_path / "journal"), form=form, more=more)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def receiver(tmp_path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "journal"))
    sock.settimeout(20)
    return sock


def test_fields_are_encoded_as_the_journal_takes_them() -> None:
    entry = journald.encode({"MESSAGE": "two\nlines", "aiosd_n-x": 5, "EMPTY": "", "GONE": None})
    assert entry == (
        b"MESSAGE\n" + struct.pack("<Q", 9) + b"two\nlines\n" + b"AIOSD_N_X=5\n" + b"EMPTY=\n"
    )
    assert parse(entry) == {"MESSAGE": "two\nlines", "AIOSD_N_X": "5", "EMPTY": ""}


def test_the_journal_gets_a_message_and_a_field_for_each_fact(tmp_path: Path) -> None:
    with receiver(tmp_path) as sock:
        run(tmp_path, "journal")
        first, second = parse(sock.recv(65536)), parse(sock.recv(65536))
    assert first == {
        "MESSAGE": "syscall name=llm.generate agent=alice job=j1 uid=1000 ms=1.5",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "aiosd",
        "AIOSD_EVENT": "syscall",
        "AIOSD_NAME": "llm.generate",
        "AIOSD_AGENT": "alice",
        "AIOSD_JOB": "j1",
        "AIOSD_UID": "1000",
        "AIOSD_MS": "1.5",
    }
    assert (second["PRIORITY"], second["AIOSD_ID"]) == ("3", "b1")
    assert second["MESSAGE"].startswith("bug id=b1\n  File ")
    assert second["AIOSD_EXCEPTION"].endswith("KeyError")
    assert "secret" not in str(second)


def test_an_entry_past_a_datagram_goes_as_a_sealed_file(tmp_path: Path) -> None:
    with receiver(tmp_path) as sock:
        big = journald.encode({f"KEY{n}": "x" * 60_000 for n in range(20)})
        way = journald.Journal(tmp_path / "journal")
        way.write(big)
        data, fds, _flags, _address = socket.recv_fds(sock, 10, 1)
        way.close()
        assert data == b""
        with os.fdopen(fds[0], "rb") as file:
            assert file.seek(0) == 0
            assert parse(file.read())["KEY19"] == "x" * 60_000


def test_a_journal_that_is_away_loses_lines_and_nothing_else(tmp_path: Path) -> None:
    run(tmp_path, "journal", "logs.flush(20)\nassert logs.n_dropped() == 2, logs.n_dropped()")


def test_json_lines_and_the_console_say_the_same(tmp_path: Path) -> None:
    first, second = map(json.loads, run(tmp_path, "json").stderr.splitlines())
    assert (first["event"], first["agent"], first["level"]) == ("syscall", "alice", "info")
    assert second["exception"].endswith("KeyError")
    said = run(tmp_path, "console").stderr
    assert "agent=alice" in said
    assert "KeyError" in said
    assert "secret" not in said


def test_what_libraries_log_is_their_words_without_values(tmp_path: Path) -> None:
    more = "import logging\nlogging.getLogger('x').error('failed at %s', 'a secret')"
    last = json.loads(run(tmp_path, "json", more).stderr.splitlines()[-1])
    assert (last["event"], last["name"], last["says"]) == ("library", "x", "failed at %s")


def test_bugs_in_threads_and_in_the_loop_are_lines_too(tmp_path: Path) -> None:
    more = (
        "import threading, asyncio\n"
        "t = threading.Thread(target=lambda: int('a secret')); t.start(); t.join()\n"
        "logs.say_loop_bug(None, {'message': 'a secret', 'exception': ValueError('a secret')})"
    )
    said = run(tmp_path, "json", more).stderr
    lines = [json.loads(line) for line in said.splitlines()][-2:]
    assert [(line["event"], line["name"]) for line in lines] == [("bug", "thread"), ("bug", "loop")]
    assert "secret" not in "".join(line["exception"].rpartition("\n")[2] for line in lines)


def test_the_journals_stream_is_recognised_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as file:
        found = os.fstat(file.fileno())
        ours = f"{found.st_dev}:{found.st_ino}"
        assert journald.is_stream(file.fileno(), {"JOURNAL_STREAM": ours})
        for other in ("", "1:2", "x:y", ours + "0", str(found.st_dev)):
            assert not journald.is_stream(file.fileno(), {"JOURNAL_STREAM": other})
    assert not journald.is_stream(9999, {"JOURNAL_STREAM": ours})


def raised(make: Any) -> BaseException:
    try:
        make()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_tracebacks_have_places_and_kinds_and_no_messages() -> None:
    def inner() -> None:
        raise ValueError("a secret")

    def outer() -> None:
        try:
            inner()
        except ValueError as error:
            raise OSError(28, "a secret", "/a/secret") from error

    said = tracebacks.of(raised(outer))
    assert "in inner" in said
    assert said.index("ValueError") < said.index("OSError (errno 28)")
    assert '"a secret"' in said  # the line of our own source, which is no message
    assert said.endswith("OSError (errno 28)")
    assert tracebacks.of(NotFound("a secret")) == "aios_sdk.errors.NotFound (not_found)"
    group = ExceptionGroup("a secret", [KeyError("a secret"), TypeError("a secret")])
    assert tracebacks.of(group) == "KeyError\nTypeError\nExceptionGroup"


def test_a_writer_that_is_stuck_drops_lines_and_counts_them() -> None:
    read_fd, write_fd = os.pipe()
    with os.fdopen(write_fd, "w") as stream, os.fdopen(read_fd) as reader:
        writer = logs._Writer(logs._StreamSink(stream))
        line = "x" * 1000
        for _ in range(logs.MAX_LINES + 2000):
            writer.msg(line)
        assert writer.n_dropped > 0
        n_read = 0
        while n_read < logs.MAX_LINES // 2:  # the reader comes back
            assert reader.readline().startswith(("x", "("))
            n_read += 1
        os.set_blocking(reader.fileno(), False)
        writer.msg("the last")
