"""The figures over HTTP, as Prometheus scrapes them; and nobody from elsewhere."""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aiosd import config
from aiosd.config import ConfigError, Metrics
from aiosd.server import scrape as scrape_server
from aiosd.server.listener import ListenError
from aiosd.server.scrape import MAX_CLIENTS
from tests.server.harness import RawPeer, served


def values(text: str) -> dict[str, float]:
    """The figures without labels."""
    families = text_string_to_metric_families(text)
    return {s.name: s.value for family in families for s in family.samples if not s.labels}


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self._path)


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text: str = answer.read().decode()
        return text


def test_a_scrape_on_loopback_shows_what_was_done(tmp_path: Path) -> None:
    with served(tmp_path, metrics=Metrics("127.0.0.1:0")) as daemon:
        assert daemon.scraper is not None
        port = daemon.scraper.port
        assert values(scrape(port))["aiosd_ttft_seconds_count"] == 0
        with RawPeer(daemon.config.socket) as peer:
            peer.ask("llm.generate", prompt="x", max_tokens=3, ignore_eos=True)
            figures = values(scrape(port))
        assert figures["aiosd_ttft_seconds_count"] == 1
        assert figures["aiosd_slots"] == 4
        assert figures["aiosd_connections"] == 1
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", b"x=1", timeout=20)
        assert caught.value.code == 405
        caught.value.close()
    with pytest.raises(urllib.error.URLError):
        scrape(port)


def test_a_scrape_on_a_unix_socket_of_the_sockets_mode(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    with served(tmp_path, metrics=Metrics(str(path)), socket_mode=0o660):
        assert path.stat().st_mode & 0o777 == 0o660
        connection = UnixConnection(str(path))
        connection.request("GET", "/metrics")
        assert values(connection.getresponse().read().decode())["aiosd_slots"] == 4
        connection.close()
    assert not path.exists()


def test_scrapers_that_hang_leave_the_daemon_and_each_other_alone(tmp_path: Path) -> None:
    with served(tmp_path, metrics=Metrics("127.0.0.1:0")) as daemon:
        assert daemon.scraper is not None
        address = ("127.0.0.1", daemon.scraper.port)
        hanging = [socket.create_connection(address, 20) for _ in range(MAX_CLIENTS)]
        one_more = socket.create_connection(address, 20)
        assert one_more.recv(1) == b""  # hung up on at once
        with RawPeer(daemon.config.socket) as peer:
            assert peer.ask("sys.ping").result == {}
        for sock in (*hanging, one_more):
            sock.close()


def test_a_scraper_that_drips_its_request_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape_server, "IO_S", 0.2)
    with served(tmp_path, metrics=Metrics("127.0.0.1:0")) as daemon:
        assert daemon.scraper is not None
        with socket.create_connection(("127.0.0.1", daemon.scraper.port), 0.05) as sock:
            assert any(is_over(sock) for _ in range(400))


def is_over(sock: socket.socket) -> bool:
    """Send one byte more of a request that never ends; whether that was one too many."""
    try:
        sock.sendall(b"G")
        return sock.recv(4096) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("", None),
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("localhost:9464", ("127.0.0.1", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("/run/aiosd/metrics.sock", Path("/run/aiosd/metrics.sock")),
        ("unix:/run/m.sock", Path("/run/m.sock")),
    ],
)
def test_where_it_may_listen(listen: str, expected: object) -> None:
    assert Metrics(listen).address() == expected


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        ("0.0.0.0:9464", "other machines may reach"),
        ("192.168.1.2:9464", "other machines may reach"),
        ("[::]:9464", "other machines may reach"),
        ("example.org:9464", "other machines may reach"),
        (":9464", "other machines may reach"),
        ("9464", "expected 127.0.0.1:PORT"),
        ("127.0.0.1", "expected 127.0.0.1:PORT"),
        ("127.0.0.1:99999", "expected 127.0.0.1:PORT"),
    ],
)
def test_where_it_may_not_listen_is_said_when_the_file_is_read(
    tmp_path: Path, listen: str, says: str
) -> None:
    file = tmp_path / "aiosd.toml"
    file.write_text(f'[metrics]\nlisten = "{listen}"\n')
    with pytest.raises(ConfigError, match=says) as caught:
        config.load(str(file), {})
    assert "metrics.listen" in str(caught.value)


def test_an_address_in_use_is_said_in_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ListenError, match=f"metrics on 127.0.0.1 port {port}: Address already"),
            served(tmp_path, metrics=Metrics(f"127.0.0.1:{port}")),
        ):
            pass
