"""What the tools that come along do, without the processes around them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from aiosd.services.tools.builtin import fetch as fetching
from aiosd.services.tools.builtin.calculator import CannotCalculate, calculator
from aiosd.services.tools.builtin.clock import clock
from aiosd.services.tools.builtin.fetch import Refused, fetch, is_allowed, is_public, plain


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("6 * 7", "42"),
        ("2 + 3 * 4 - -1", "15"),
        ("10 / 4", "2.5"),
        ("2 ^ 10", "1024"),
        ("7 // 2 + 7 % 4", "6"),
        ("sqrt(2) * sqrt(2)", "2.0000000000000004"),
        ("round(pi, 2)", "3.14"),
        ("max(1, 2, 3) - min(4, 5)", "-1"),
        ("factorial(20)", "2432902008176640000"),
        ("2 ** 100", "1267650600228229401496703205376"),
        ("1 << 4 | 1", "17"),
    ],
)
def test_the_calculator_calculates(expression: str, expected: str) -> None:
    assert calculator(expression) == expected


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("9 ** 9 ** 9", "the power has more than 20000 bits"),
        ("10 ** (10 ** 10)", "the power has more than 20000 bits"),
        ("2 ** -(10 ** 9)", "the exponent is -1000000000"),
        ("factorial(100000)", "factorial takes a whole number from 0 to 1500"),
        ("comb(10**9, 10**8)", "comb takes whole numbers"),
        ("1 << 10**9", "shift by 1000000000"),
        ("round(1, -10**9)", "round takes a number"),
        ("1 / 0", "division by zero"),
        ("1e308 * 10 ** 400", "int too large"),
        ("(-8) ** 0.5", "not a real number"),
        ("__import__('os').system('id')", "is no part of arithmetic here"),
        ("(1).__class__", "is no part of arithmetic here"),
        ("[1, 2]", "is no part of arithmetic here"),
        ("'a' * 10", "is no part of arithmetic here"),
        ("True + 1", "is no part of arithmetic here"),
        ("lambda: 1", "is no part of arithmetic here"),
        ("sqrt(x=1)", "is no part of arithmetic here"),
        ("sqrt(1, 2)", "takes exactly one argument"),
        ("sqrt(-1)", "math domain error"),
        ("2 +", "that is no arithmetic expression"),
        ("((((" * 100, "that is no arithmetic expression"),
        ("1+" * 400 + "1", "more than 500 parts"),
        ("1" * 1001, "1001 characters, limit is 1000"),
        ("1\0", "that is no arithmetic expression"),
    ],
)
def test_the_calculator_refuses_what_is_no_arithmetic_or_too_much_of_it(
    expression: str, words: str
) -> None:
    with pytest.raises(CannotCalculate, match=words.replace("(", r"\(")):
        calculator(expression)


def test_the_clock_knows_timezones() -> None:
    moment = clock("Asia/Tokyo")
    assert (moment["timezone"], moment["utc_offset"]) == ("Asia/Tokyo", "+0900")
    assert moment["time"].endswith("+09:00")
    for unknown in ("Atlantis/Capital", "../../etc/passwd", "", "\0"):
        with pytest.raises(ValueError, match="no timezone"):
            clock(unknown)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_only_addresses_of_the_internet_are_public(address: str, expected: bool) -> None:
    assert is_public(address) is expected


def test_hosts_are_allowed_by_name_or_below_a_name() -> None:
    allowed = ["example.org", "*.example.com"]
    for host, expected in (
        ("example.org", True),
        ("www.example.org", False),
        ("a.b.example.com", True),
        ("example.com", False),
        ("badexample.com", False),
        ("example.org.evil.net", False),
    ):
        assert is_allowed(host, allowed) is expected


class Pages(BaseHTTPRequestHandler):
    """/N redirects to /N-1; others say what they are."""

    def do_GET(self) -> None:
        path = self.path.strip("/")
        if path.isdecimal() and int(path):
            self._say(302, b"", Location=f"/{int(path) - 1}")
        elif path == "away":
            self._say(302, b"", Location="http://169.254.169.254/latest")
        elif path == "file":
            self._say(302, b"", Location="file:///etc/passwd")
        elif path == "image":
            self._say(200, b"\x89PNG", **{"Content-Type": "image/png"})
        elif path == "large":
            self._say(200, b"x" * 3_000_000, **{"Content-Type": "text/plain"})
        elif path == "missing":
            self._say(404, b"not here", **{"Content-Type": "text/plain"})
        else:
            page = b"<html><head><title>t</title></head><body><h1>Hi</h1><p>a <b>b</b>&amp;c</p>"
            self._say(200, page + b"<script>x()</script>", **{"Content-Type": "text/html"})

    def _say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its interface
        """Nothing on stderr."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of this machine's own, which is allowed."""
    monkeypatch.setenv(fetching.HOSTS_VAR, "localhost 127.0.0.1")
    monkeypatch.setenv(fetching.PRIVATE_VAR, "yes")
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_page_comes_as_its_words(site: str) -> None:
    assert fetch(f"{site}/page").content == "Hi\na b&c"
    assert fetch(f"{site}/5").content == "Hi\na b&c"


def test_what_is_no_page_is_said_to_be_so(site: str) -> None:
    assert fetch(f"{site}/image").content == "[image/png, which is no text]"
    large = fetch(f"{site}/large").content
    assert large.endswith("x\n[cut: limit is 2097152 bytes]")
    assert len(large) == 2097152 + len("\n[cut: limit is 2097152 bytes]")
    missing = fetch(f"{site}/missing")
    assert missing.is_error
    assert missing.content == "[HTTP 404 Not Found]\nnot here"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/9", "more than 5 redirects"),
        ("/away", "host 169.254.169.254 is not one of those that are allowed"),
        ("/file", "only http and https addresses are fetched"),
    ],
)
def test_redirects_are_checked(site: str, path: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        fetch(site + path)


def test_private_addresses_of_allowed_names_are_refused(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fetching.PRIVATE_VAR, "no")
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(Refused, match=f"host {host} has private addresses only"):
            fetch(f"http://{host}:{site.rpartition(':')[2]}/page")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://localhost/", "only http and https"),
        ("localhost", "only http and https"),
        ("http://user:pass@localhost/", "a user name or a password"),
        ("http://localhost/ HTTP/1.1\r\nX: y", "spaces or control characters"),
        ("http://127.1/", "host 127.1 is not one of those"),
        ("http://evil.net/", "host evil.net is not one of those"),
    ],
)
def test_strange_addresses_are_refused(site: str, url: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        fetch(url)


def test_broken_html_is_no_trouble() -> None:
    assert plain("<p>a<br>b</div></script><style>x") == "a\nb"
