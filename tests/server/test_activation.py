"""Sockets that a service manager passes: adopted, checked, never removed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aiosd.server.listener import endpoints, passed_sockets

ADOPT = """
import os, socket, sys
from aiosd.server.listener import ListenError, endpoints
environ = {**os.environ, "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": sys.argv[2]}
try:
    got = endpoints(sys.argv[1], 0o600, environ)
except ListenError as error:
    sys.exit(str(error))
print([(e.path, e.inode, os.get_inheritable(e.sock.fileno())) for e in got])
print([key for key in environ if key.startswith("LISTEN_")])
for endpoint in got:
    endpoint.remove()
"""


def adopt(*passed: socket.socket, count: int | None = None) -> tuple[int, str]:
    """What a process gets out of descriptors 3, 4, …"""
    source = [s.fileno() for s in passed]
    # Above all of them first, so that none is overwritten on its way down to its number.
    moves = "".join(f"exec {90 + i}<&{fd}; " for i, fd in enumerate(source))
    moves += "".join(f"exec {3 + i}<&{90 + i} {90 + i}<&-; " for i in range(len(source)))
    command = [
        sys.executable,
        "-c",
        ADOPT,
        "/nowhere",
        str(len(source) if count is None else count),
    ]
    done = subprocess.run(
        ["bash", "-c", moves + 'exec "$@"', "bash", *command],
        pass_fds=source,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def test_passed_sockets_are_served_and_left_where_they_are(tmp_path: Path) -> None:
    with listening(tmp_path / "a") as a, listening(tmp_path / "b") as b:
        code, said = adopt(a, b)
    assert said.splitlines() == [
        str([(str(tmp_path / "a"), None, False), (str(tmp_path / "b"), None, False)]),
        "[]",
    ]
    assert code == 0
    assert (tmp_path / "a").is_socket()


def test_what_is_not_a_listening_unix_stream_socket_is_refused(tmp_path: Path) -> None:
    idle = socket.socket(socket.AF_UNIX)
    internet = socket.socket(socket.AF_INET)
    internet.bind(("127.0.0.1", 0))
    internet.listen()
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for wrong in (idle, internet, datagrams):
        with wrong:
            code, said = adopt(wrong)
        assert code == 1
        assert "descriptor 3, which the service manager passed, is not a listening" in said


def test_a_descriptor_that_is_missing_is_said(tmp_path: Path) -> None:
    with listening(tmp_path / "a") as a:
        code, said = adopt(a, count=2)
    assert code == 1
    assert "descriptor 4" in said


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid())}],
)
def test_without_sockets_for_this_process_it_makes_its_own(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    (own,) = endpoints(tmp_path / "s.sock", 0o660, dict(environ))
    assert own.path == str(tmp_path / "s.sock")
    assert (tmp_path / "s.sock").stat().st_mode & 0o777 == 0o660
    own.sock.close()
    own.remove()
    assert not (tmp_path / "s.sock").exists()


def test_the_variables_are_taken_out_even_if_they_are_for_another_process() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "HOME": "/"}
    assert passed_sockets(environ) == ()
    assert environ == {"HOME": "/"}
