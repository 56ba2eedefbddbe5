"""The real units under a real systemd: what a person who installs and runs the service relies on.

One container for all of it, in the order of a service's life; each test starts from a service that
serves, or brings it there.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading

import pytest

from aios_sdk import Client
from aios_sdk.errors import AiosError, Unavailable
from tests.systemd.conftest import HERE, WAIT_S, Lab

pytestmark = pytest.mark.slow

SOCKET = "/run/aiosd/aiosd.sock"
TOML = "/etc/aiosd/aiosd.toml"


def ask(lab: Lab, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return lab.as_user(user, "aiosctl", *arguments)


def names_of_contexts(lab: Lab, user: str) -> list[str]:
    said = ask(lab, user, "call", "context.list", "all=true")
    assert said.returncode == 0, said.stderr
    return [context["name"] for context in json.loads(said.stdout)["contexts"]]


def configure(lab: Lab, *lines: str) -> None:
    """The default configuration with these lines before it."""
    default = lab.path("/usr/local/share/aiosd/aiosd.toml").read_text()
    lab.path(TOML).write_text("\n".join(lines) + "\n" + default)


def running(lab: Lab) -> str:
    """The pid of a daemon that serves, as the container counts."""
    lab.must("systemctl", "start", "aiosd.socket", "aiosd.service")
    assert lab.show("ActiveState") == "active"
    return lab.show("MainPID")


class Talker:
    """A call that is under way when this is made, and would go on for half a minute."""

    def __init__(self, lab: Lab) -> None:
        self._socket = str(lab.path(SOCKET))
        self._error: AiosError | None = None
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()
        assert self._began.wait(WAIT_S)

    def _talk(self) -> None:
        try:
            with Client(agent="talker", socket=self._socket) as client:
                words = client.generate_stream("Count on.", max_tokens=1900, ignore_eos=True)
                for _ in words:
                    self._began.set()
        except AiosError as error:
            self._error = error
        finally:
            self._began.set()

    def ended(self) -> AiosError | None:
        """The error it ended with."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        return self._error


def test_the_installed_units_have_no_fault(lab: Lab) -> None:
    units = "/usr/local/lib/systemd/system"
    for command in (
        [
            "systemd-analyze",
            "verify",
            "--man=no",
            f"{units}/aiosd.service",
            f"{units}/aiosd.socket",
        ],
        ["aiosd", "--config", TOML, "--check-config"],
    ):
        done = lab.do(*command)
        assert (done.returncode, done.stderr) == (0, "")
    assert lab.must("stat", "-c", "%U:%G %a", "/var/lib/aiosd") == "aiosd:aiosd 700\n"


def test_it_starts_when_a_member_of_the_group_asks(lab: Lab) -> None:
    lab.must("systemctl", "enable", "--now", "aiosd.socket")
    assert lab.show("ActiveState") == "inactive"
    assert lab.must("stat", "-c", "%U:%G %a", SOCKET) == "root:aiosd 660\n"
    said = ask(lab, "ann", "run", "--max-tokens", "8", "Say something.")
    assert said.returncode == 0, said.stderr + lab.journal()
    assert said.stdout.strip()
    assert lab.show("ActiveState") == "active"
    assert lab.show("StatusText").startswith("serving smollm2-135m-instruct: ")
    assert lab.must("ps", "-o", "user=", "-p", lab.show("MainPID")).strip() == "aiosd"


def test_the_journal_says_who_did_what_and_nothing_of_what_was_said(lab: Lab) -> None:
    running(lab)
    prompt = "The password is swordfish."
    assert ask(lab, "ann", "run", "--max-tokens", "4", prompt).returncode == 0
    ann = lab.must("id", "-u", "ann").strip()

    def told() -> list[dict[str, str]]:
        journal = lab.must("journalctl", "-u", "aiosd.service", "-o", "json", "--no-pager")
        entries = [json.loads(line) for line in journal.splitlines()]
        return [entry for entry in entries if entry.get("AIOSD_UID") == ann]

    lab.until(lambda: any(e.get("AIOSD_NAME") == "llm.generate" for e in told()), "its line")
    entry = next(e for e in told() if e.get("AIOSD_NAME") == "llm.generate")
    assert (entry["AIOSD_AGENT"], entry["AIOSD_OUTCOME"]) == ("aiosctl", "ok")
    everything = lab.must("journalctl", "-u", "aiosd.service", "-o", "export", "--no-pager")
    assert "swordfish" not in everything


def test_somebody_outside_the_group_is_refused(lab: Lab) -> None:
    running(lab)
    said = ask(lab, "bob", "run", "Say something.")
    assert said.returncode == 4
    assert "denied" in said.stderr
    assert "aiosd" in said.stderr


def test_the_hardening_is_in_force(lab: Lab) -> None:
    pid = running(lab)
    status = dict(
        line.split(":\t", 1)
        for line in lab.must("cat", f"/proc/{pid}/status").splitlines()
        if ":\t" in line
    )
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert int(status["CapBnd"], 16) == 0
    inside = ("nsenter", "--target", pid, "--mount", "--")
    assert lab.must(*inside, "ls", "-A", "/home") == ""
    assert lab.do(*inside, "touch", "/usr/local/x").returncode != 0
    assert lab.do(*inside, "touch", "/etc/x").returncode != 0


def test_kill_minus_9_is_followed_by_a_restart_with_every_context(lab: Lab) -> None:
    pid = running(lab)
    created = ask(lab, "ann", "call", "context.create", "name=kept", "system=Be brief.")
    assert created.returncode == 0, created.stderr
    lab.must("kill", "-KILL", pid)
    lab.until(lambda: lab.show("MainPID") not in ("0", pid), "a restart")
    assert names_of_contexts(lab, "ann") == ["kept"]  # waits in the socket until it serves
    assert int(lab.show("NRestarts")) >= 1


def test_a_reload_takes_what_it_can_and_says_what_it_cannot(lab: Lab) -> None:
    pid = running(lab)
    configure(lab, "quantum = 5", "slots = 6")
    lab.must("systemctl", "reload", "aiosd.service")
    lab.until(lambda: bool(lab.lines("reloaded")), "the reload")
    (reloaded,) = lab.lines("reloaded")
    assert re.search(r"applied\W+quantum\W+needs_restart\W+slots\b", reloaded)
    said = ask(lab, "ann", "--json", "policy")
    assert json.loads(said.stdout)["quantum_tokens"] == 5
    configure(lab, "quantam = 5")
    lab.must("systemctl", "reload", "aiosd.service")
    lab.until(lambda: bool(lab.lines("reload_refused")), "the refusal")
    assert "did you mean quantum?" in lab.lines("reload_refused")[0]
    configure(lab)
    assert (lab.show("MainPID"), lab.show("ActiveState")) == (pid, "active")


def test_the_journal_has_a_line_with_fields_for_each_call_and_no_word_of_it(lab: Lab) -> None:
    running(lab)
    said = ask(lab, "ann", "--agent", "poet", "--json", "run", "--max-tokens", "4", "Say zqXqz.")
    assert said.returncode == 0, said.stderr
    job = json.loads(said.stdout)["job"]
    logs = ("aiosctl", "logs", "--json", "--agent", "poet", "--job", job)
    lab.until(lambda: lab.do(*logs).stdout != "", "the line")
    [line] = map(json.loads, lab.must(*logs).splitlines())
    assert (line["event"], line["name"], line["outcome"]) == ("syscall", "llm.generate", "ok")
    assert int(line["ttft_ms"]) <= int(line["total_ms"])
    assert line["uid"] == lab.must("id", "-u", "ann").strip()
    assert lab.must("aiosctl", "logs", "-n", "5").count("\n") >= 5
    everything = lab.must("journalctl", "-u", "aiosd.service", "-o", "json", "--all")
    assert f'"AIOSD_JOB":"{job}"' in everything
    assert "zqXqz" not in everything


def test_a_configuration_with_an_error_is_not_tried_again_and_again(lab: Lab) -> None:
    running(lab)
    restarts = lab.show("NRestarts")
    lab.must("systemctl", "stop", "aiosd.socket", "aiosd.service")
    configure(lab, "quantam = 5")
    assert lab.do("systemctl", "start", "aiosd.service").returncode != 0
    lab.until(lambda: lab.show("ActiveState") == "failed", "the failure")
    assert lab.show("ExecMainStatus") == "2"
    assert lab.show("NRestarts") in ("0", restarts)
    assert "quantam: no such key, did you mean quantum?" in lab.journal()
    configure(lab)
    running(lab)


def test_an_agent_runs_as_a_process_within_the_unit_and_ends_with_it(lab: Lab) -> None:
    pid = running(lab)
    ann = lab.must("id", "-u", "ann").strip()
    refused = ask(lab, "ann", "agent", "run", "poet", "--", "true")
    assert (refused.returncode, "access rights" in refused.stderr) == (4, True)
    lab.must("aiosctl", "access", "rights", "aiosctl", "--uid", ann, "--add", "spawn")
    program = "from aios_sdk import Client; print(Client().hello['agent'])"
    said = ask(lab, "ann", "agent", "run", "poet", "--", "python", "-c", program)
    assert (said.stdout, said.returncode) == ("poet\n", 0), said.stderr
    started = ask(lab, "ann", "agent", "run", "sleeper", "--detach", "--", "sleep", "1000")
    assert started.returncode == 0, started.stderr
    group = lab.show("ControlGroup")
    assert group.endswith("aiosd.service")
    pids = lab.must("pgrep", "-u", "aiosd", "-x", "sleep").split()
    assert [group in lab.must("cat", f"/proc/{one}/cgroup") for one in pids] == [True]
    lab.must("systemctl", "stop", "aiosd.service")
    assert lab.do("pgrep", "-u", "aiosd").stdout == ""
    assert lab.show("Result") == "success"
    assert running(lab) != pid


def test_stopping_ends_calls_in_order_and_keeps_contexts(lab: Lab) -> None:
    running(lab)
    talker = Talker(lab)
    lab.must("systemctl", "stop", "aiosd.socket", "aiosd.service")
    assert isinstance(talker.ended(), Unavailable)
    assert lab.show("Result") == "success"
    assert lab.lines("flushed")
    assert not lab.path(SOCKET).exists()
    running(lab)
    assert names_of_contexts(lab, "ann") == ["kept"]


def test_it_serves_without_the_socket_unit_on_a_socket_of_its_own(lab: Lab) -> None:
    running(lab)
    lab.must("systemctl", "stop", "aiosd.socket", "aiosd.service")
    lab.must("systemctl", "mask", "--runtime", "aiosd.socket")
    try:
        lab.must("systemctl", "start", "aiosd.service")
        assert lab.must("stat", "-c", "%U:%G %a", SOCKET) == "aiosd:aiosd 660\n"
        assert names_of_contexts(lab, "ann") == ["kept"]
        assert ask(lab, "bob", "status").returncode == 4
    finally:
        lab.must("systemctl", "stop", "aiosd.service")
        lab.must("systemctl", "unmask", "--runtime", "aiosd.socket")
    assert not lab.path(SOCKET).exists()


def test_a_user_without_rights_has_units_of_their_own(lab: Lab) -> None:
    uid = lab.must("id", "-u", "bob").strip()
    manager = f"user@{uid}.service"
    lab.do("systemctl", "start", manager)
    if lab.show("ActiveState", manager) != "active":
        pytest.skip("this machine's systemd starts no user manager (it needs libpam-systemd)")
    runtime = f"/run/user/{uid}"

    def as_bob(*command: str) -> subprocess.CompletedProcess[str]:
        return lab.as_user("bob", "env", f"XDG_RUNTIME_DIR={runtime}", *command)

    started = as_bob("systemctl", "--user", "start", "aiosd.socket")
    assert started.returncode == 0, started.stderr
    assert lab.must("stat", "-c", "%U %a", f"{runtime}/aiosd/aiosd.sock") == "bob 600\n"
    said = as_bob("aiosctl", "run", "--max-tokens", "4", "Say something.")
    assert said.returncode == 0, said.stderr
    lab.must("systemctl", "stop", manager)


def test_it_starts_with_all_the_drop_ins(lab: Lab) -> None:
    place = lab.path("/etc/systemd/system/aiosd.service.d")
    shutil.copytree(lab.path("/usr/local/share/aiosd/dropins"), place)
    lab.must("systemctl", "daemon-reload")
    lab.must("systemctl", "restart", "aiosd.service")
    assert ask(lab, "ann", "run", "--max-tokens", "4", "Say something.").returncode == 0
    assert lab.show("ProtectHome") == "read-only"
    shutil.rmtree(place)
    lab.must("systemctl", "daemon-reload")


def test_an_engine_that_hangs_is_found_by_the_watchdog_and_replaced(lab: Lab) -> None:
    drop_in = lab.path("/etc/systemd/system/aiosd.service.d/test.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nWatchdogSec=5s\n")
    lab.must("systemctl", "daemon-reload")
    lab.path("/wedge.py").write_text((HERE / "wedge.py").read_text())
    lab.must("systemctl", "restart", "aiosd.service")
    pid = running(lab)
    talker = Talker(lab)
    with subprocess.Popen(
        [str(HERE / "sdlab"), "exec", lab.name, "/usr/bin/python3", "/wedge.py", pid],
        stdout=subprocess.PIPE,
        text=True,
    ) as wedge:
        try:
            assert wedge.stdout is not None
            assert wedge.stdout.readline().startswith("wedged")
            # The event loop still answers: only progress tells.
            assert ask(lab, "ann", "ping").returncode == 0
            lab.until(lambda: lab.show("MainPID") not in ("0", pid), "a new daemon")
        finally:
            wedge.kill()
    assert isinstance(talker.ended(), AiosError)
    journal = lab.journal()
    assert "Watchdog timeout" in journal
    assert "Fatal Python error: Aborted" in journal
    assert "aiosd/engine/" in journal  # where it hung
    drop_in.unlink()
    lab.must("systemctl", "daemon-reload")
    lab.must("systemctl", "restart", "aiosd.service")
    assert ask(lab, "ann", "run", "--max-tokens", "4", "Say something.").returncode == 0


def test_an_upgrade_keeps_contexts_and_the_configuration(lab: Lab) -> None:
    pid = running(lab)
    configure(lab, "# mine")
    said = lab.make("install")
    assert "systemctl restart aiosd" in said
    assert lab.path(TOML).read_text().startswith("# mine")
    assert names_of_contexts(lab, "ann") == ["kept"]  # the old one serves on
    assert lab.show("MainPID") == pid
    lab.must("systemctl", "restart", "aiosd.service")
    assert names_of_contexts(lab, "ann") == ["kept"]
    assert lab.show("MainPID") != pid


def test_uninstalling_leaves_what_it_kept_unless_told(lab: Lab) -> None:
    running(lab)
    lab.make("uninstall")
    assert lab.show("ActiveState") == "inactive"
    assert lab.show("LoadState") == "not-found"
    assert lab.do("find", "/usr/local", "-name", "*aios*").stdout == ""
    assert lab.path("/var/lib/aiosd/aiosd.db").exists()
    assert lab.path(TOML).exists()
    lab.make("install")
    running(lab)
    assert names_of_contexts(lab, "ann") == ["kept"]
    lab.make("uninstall", "PURGE=1")
    left = lab.do("find", "/usr/local", "/etc/aiosd", "/var/lib", "-name", "*aios*").stdout
    assert left == ""
