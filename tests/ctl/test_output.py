"""What commands print: in a pipe, as JSON, and what never gets through."""

from __future__ import annotations

import base64
import json
import os
import subprocess

import pytest

from tests.ctl.conftest import Ctl, command, environment
from tests.ctl.peer import CORE, JOBS, STATUS, UID, Peer, context_info, spoken

PS = """\
JOB  AGENT   UID  CONTEXT  STATE    PRIORITY    TOKENS  WAITED  SLICES  PARKS
j1   alice  1000  c1       running  normal          41    3.2s      10      2
j2   bob    1000  c2       paused   background       0    15ms       0      0
"""


def test_ps_shows_the_jobs_of_all_my_agents_and_nobody_elses(ctl: Ctl) -> None:
    done = ctl("ps")
    assert (done.stdout, done.stderr, done.returncode) == (PS, "", 0)


def test_ps_all_shows_what_the_daemon_gives(ctl: Ctl) -> None:
    assert [line.split()[0] for line in ctl("ps", "-a").stdout.splitlines()] == [
        "JOB",
        "j1",
        "j2",
        "j3",
    ]


def test_ps_without_jobs_has_headings_still(ctl: Ctl, peer: Peer) -> None:
    peer.answers["job.list"] = {"jobs": []}
    assert ctl("ps").stdout == (
        "JOB  AGENT  UID  CONTEXT  STATE  PRIORITY  TOKENS  WAITED  SLICES  PARKS\n"
    )


def test_a_pipe_is_the_same_whatever_the_terminal_would_be(ctl: Ctl) -> None:
    plain = ctl("ps").stdout
    for env in ({"COLUMNS": "20"}, {"TERM": "dumb"}, {"FORCE_COLOR": "1"}, {"NO_COLOR": "1"}):
        assert ctl("ps", env=env).stdout == plain


def test_job_ls_asks_for_one_agents_jobs_unless_told_all(ctl: Ctl, peer: Peer) -> None:
    assert len(ctl("job", "ls").stdout.splitlines()) == 1
    assert len(ctl("job", "ls", "--all").stdout.splitlines()) == 4
    assert [params["all"] for params in peer.asked("job.list")] == [False, True]


def test_global_options_work_before_and_after_the_command(ctl: Ctl, peer: Peer) -> None:
    for args in (
        ("--json", "--agent", "eve", "job", "ls"),
        ("job", "--json", "--agent", "eve", "ls"),
        ("job", "ls", "--json", "--agent", "eve"),
        ("--json", "job", "--agent", "eve", "ls"),
        ("--agent", "alice", "job", "ls", "--agent", "eve", "--json"),
    ):
        assert json.loads(ctl(*args).stdout) == {"jobs": []}
    assert {params["agent"] for params in peer.asked("sys.hello")} == {"eve"}


def test_socket_anywhere_beats_the_environment(ctl: Ctl, peer: Peer) -> None:
    nowhere = {"AIOSD_SOCKET": "/nowhere.sock"}
    assert ctl("--socket", str(peer.path), "ping", env=nowhere).returncode == 0
    assert ctl("ping", "--socket", str(peer.path), env=nowhere).returncode == 0
    assert ctl("ping", env=nowhere).returncode == 3


def test_ps_json_is_the_result_without_others_jobs(ctl: Ctl) -> None:
    assert json.loads(ctl("ps", "--json").stdout) == {
        "jobs": [job for job in JOBS if job["uid"] == UID]
    }


@pytest.mark.parametrize(
    "args",
    [
        ("status",),
        ("ps",),
        ("job", "ls"),
        ("context", "ls"),
        ("context", "show", "c1"),
        ("context", "log", "c1"),
        ("context", "tree"),
        ("context", "create", "notes"),
        ("context", "fork", "c1"),
        ("context", "rewind", "c1", "--tokens", "30"),
        ("context", "snapshot", "c1"),
        ("context", "prefetch", "c1"),
        ("context", "rm", "c1", "c2"),
        ("agent", "ls"),
        ("agent", "info", "alice"),
        ("agent", "kill", "alice"),
        ("model", "ls"),
        ("model", "add", "/m.gguf"),
        ("model", "rm", "m"),
        ("backup", "/b.db"),
        ("job", "attach", "j1"),
        ("run", "Hello", "--detach"),
        ("policy",),
        ("policy", "--policy", "fifo"),
        ("describe",),
        ("describe", "llm.generate"),
        ("ping",),
        ("run", "Hello"),
        ("version",),
        ("call", "sys.status"),
    ],
)
def test_json_is_one_document(ctl: Ctl, args: tuple[str, ...]) -> None:
    done = ctl(*args, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert isinstance(json.loads(done.stdout), dict)


def test_json_says_bytes_in_base64_and_what_json_lacks_as_null(ctl: Ctl, peer: Peer) -> None:
    peer.answers["x.y"] = {"data": b"\x00\xff", "nan": float("nan"), "list": [b"a"]}
    assert json.loads(ctl("call", "x.y", "a=1").stdout) == {
        "data": base64.b64encode(b"\x00\xff").decode(),
        "nan": None,
        "list": ["YQ=="],
    }


def test_status_reads_as_name_and_value(ctl: Ctl) -> None:
    lines = ctl("status").stdout.splitlines()
    assert lines[:6] == [
        "aiosd   0.1.0",
        "state   serving",
        "pid     4242",
        "up      1h02m",
        "memory  256MiB",
        "agents  3",
    ]
    assert "jobs       1 ready, 2 running, 0 stalled, 1 paused" in lines
    assert "snapshots  1.5MiB in RAM, 0B in files" in lines


def test_status_tells_what_the_tiers_use_and_may_use(ctl: Ctl, peer: Peer) -> None:
    snapshots = {
        "ram_bytes": 1572864, "ram_limit_bytes": 268435456, "file_bytes": 0,
        "file_limit_bytes": 1073741824,
    }  # fmt: skip
    peer.answers["sys.status"] = {
        **STATUS,
        "cores": [{**CORE, "snapshots": snapshots}],
        "contexts": {"n": 12, "bytes": 2097152, "limit_bytes": 67108864},
    }
    lines = ctl("status").stdout.splitlines()
    assert "contexts  12, 2MiB of 64MiB" in lines
    assert "snapshots  1.5MiB of 256MiB in RAM, 0B of 1GiB in files" in lines


def test_status_json_is_the_syscalls_result(ctl: Ctl) -> None:
    assert json.loads(ctl("--json", "status").stdout) == STATUS


def test_context_ls_has_the_name_last(ctl: Ctl) -> None:
    heading, first, second = ctl("context", "ls").stdout.splitlines()
    assert heading.split()[-1] == "NAME"
    assert first.endswith("  my first one")
    assert second.split()[-1] == "-"


def test_context_show_has_the_figures_and_the_words(ctl: Ctl) -> None:
    out = ctl("context", "show", "c1").stdout
    assert "tokens     52\n" in out
    assert out.endswith("\nuser:\nMy name is Ada.\n\nassistant:\nHello, Ada.\n")


def test_model_ls(ctl: Ctl) -> None:
    assert ctl("model", "ls").stdout == (
        "MODEL    KIND  PARAMS  TRAINED  LOADED  PATH\n"
        "smollm2  llm     135M     8192  yes     /models/smollm2.gguf\n"
    )


def test_policy_shows_and_sets(ctl: Ctl, peer: Peer) -> None:
    assert ctl("policy").stdout == "policy   rr\nquantum  16 tokens\nlanes    4\n"
    ctl("policy", "--policy", "fifo", "--quantum", "8", "--lanes", "2")
    assert peer.asked("sys.policy") == [
        {},
        {"policy": "fifo", "quantum_tokens": 8, "lanes": 2},
    ]


def test_describe_lists_calls_and_shows_one(ctl: Ctl) -> None:
    assert "sys.ping " in ctl("describe").stdout
    one = ctl("describe", "llm.generate").stdout
    assert "call     llm.generate" in one
    row = next(line for line in one.splitlines() if line.startswith("max_tokens "))
    assert row.split()[:3] == ["max_tokens", "integer", "256"]


def test_names_cannot_leave_their_line(ctl: Ctl, peer: Peer) -> None:
    peer.answers["context.list"] = {
        "contexts": [context_info("c1", model="a\nb\x1b[31m\u202ec\td")]
    }
    _, row = ctl("context", "ls").stdout.splitlines()
    assert "  a b [31m c d  " in row


def test_a_models_words_are_whole_in_a_pipe(ctl: Ctl, peer: Peer) -> None:
    text = "red \x1b[31m bell \x07 \u202e ümlaut 語\n"
    peer.answers["llm.generate"] = spoken(text)
    assert ctl("run", "x").stdout == text


def test_json_has_no_raw_control_characters(ctl: Ctl, peer: Peer) -> None:
    text = "\x1b[31m\x7f\x9b31m\u2028ü"
    peer.answers["llm.generate"] = spoken(text)
    out = ctl("run", "x", "--json").stdout
    assert json.loads(out)["text"] == text
    assert not any(ord(c) < 32 and c != "\n" for c in out)
    assert "\x7f" not in out
    assert "\x9b" not in out


@pytest.mark.parametrize(
    "args", [("describe", "llm.generate"), ("run", "x"), ("run", "x", "--json", "--stream")]
)
def test_a_closed_pipe_ends_it_quietly(peer: Peer, args: tuple[str, ...]) -> None:
    peer.answers["llm.generate"] = spoken(*["word " * 1000] * 200)
    process = subprocess.Popen(
        command(*args),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(peer.path) | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    process.stdout.close()
    _, stderr = process.communicate(timeout=20)
    assert (stderr, process.returncode) == (b"", 141)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")  # noqa: PTH110 - at import
def test_a_full_disk_is_told(peer: Peer) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            command("ps"),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(peer.path),
            check=False,
            timeout=20,
        )
    assert done.returncode == 1
    assert done.stderr == b"aiosctl: cannot write the output: No space left on device\n"
