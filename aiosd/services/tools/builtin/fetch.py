"""Reading a page of an allowed host.

Rule 1: the address that was checked is the one that is connected to: names are resolved once.
Rule 2: every redirect is checked as the first address was.  No proxy, no cookies, no credentials.
Rule 3: size and time are bounded; what is no text is described, not returned.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import socket
import ssl
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urljoin, urlsplit

from aios_sdk.toolbox import Outcome, tool

HOSTS_VAR: Final = "AIOSD_FETCH_HOSTS"  # separated by spaces
PRIVATE_VAR: Final = "AIOSD_FETCH_PRIVATE"
MAX_REDIRECTS: Final = 5
MAX_BYTES: Final = 2 * 1024 * 1024
CONNECT_S: Final = 10.0
REDIRECTS: Final = (301, 302, 303, 307, 308)


class Refused(Exception):  # noqa: N818 - the model reads it as such
    """An address that may not be fetched; str() says why."""


@tool(max_parallel=4, ordered=False, timeout_s=30, network=True)
def fetch(url: str) -> Outcome:
    """Read a page of the web by GET; HTML comes as plain text. Only some hosts are allowed.

    Args:
        url: an http or https address
    """
    for _ in range(MAX_REDIRECTS + 1):
        response, connection = _get(url)
        try:
            if response.status in REDIRECTS and (to := response.getheader("Location")):
                url = urljoin(url, to)
                continue
            return _outcome(response)
        finally:
            connection.close()
    raise Refused(f"more than {MAX_REDIRECTS} redirects")


def _get(url: str) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"{url[:200]!r}: only http and https addresses are fetched")
    if parts.username or parts.password:
        raise Refused("an address with a user name or a password is not fetched")
    if re.search(r"[\x00-\x20\x7f]", url):
        raise Refused("an address with spaces or control characters is not fetched")
    host = parts.hostname.rstrip(".").lower()
    if not is_allowed(host, os.environ.get(HOSTS_VAR, "").split()):
        raise Refused(f"host {host} is not one of those that are allowed (tools.allowed_hosts)")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = _resolved(host, port, may_be_private=os.environ.get(PRIVATE_VAR) == "yes")
    kind = _Secure if parts.scheme == "https" else _Plain
    connection = kind(host, port, timeout=CONNECT_S)
    connection.address = address
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"User-Agent": "aiosd-fetch", "Accept": "text/*, application/json;q=0.9, */*;q=0.1"}
    try:
        connection.request("GET", _quoted(path), headers=headers)
        return connection.getresponse(), connection
    except BaseException:
        connection.close()
        raise


def is_allowed(host: str, patterns: list[str]) -> bool:
    """By name; `*.example.org` is what is below it, not itself."""
    for pattern in patterns:
        name = pattern.lower().strip("[]")
        if host == name or (name.startswith("*.") and host.endswith(name[1:])):
            return True
    return False


def is_public(address: str) -> bool:
    """Whether it is an address of the internet at large, by whatever form it is written."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None and not inner.is_global:
            return False
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64: the last 32 bits are the address
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


def _resolved(host: str, port: int, *, may_be_private: bool) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Refused(f"host {host} can't be found: {error.strerror or error}") from None
    addresses = [str(info[4][0]) for info in found]
    for address in addresses:
        if may_be_private or is_public(address):
            return address
    raise Refused(f"host {host} has private addresses only, which are not fetched")


class _Plain(http.client.HTTPConnection):
    """Connects to the address that was checked."""

    address: str

    def connect(self) -> None:
        self.sock = socket.create_connection((self.address, self.port), self.timeout)


class _Secure(_Plain):
    def connect(self) -> None:
        super().connect()
        context = ssl.create_default_context()
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)


def _outcome(response: http.client.HTTPResponse) -> Outcome:
    data = response.read(MAX_BYTES + 1)
    kind = response.headers.get_content_type()
    charset = response.headers.get_content_charset() or "utf-8"
    if not (kind.startswith("text/") or re.search(r"(json|xml|javascript|yaml)$", kind)):
        return Outcome(f"[{kind}, which is no text]", is_error=True)
    try:
        text = data[:MAX_BYTES].decode(charset, "replace")
    except LookupError:
        text = data[:MAX_BYTES].decode("utf-8", "replace")
    if kind in ("text/html", "application/xhtml+xml"):
        text = plain(text)
    if len(data) > MAX_BYTES:
        text += f"\n[cut: limit is {MAX_BYTES} bytes]"
    if response.status >= 400:
        return Outcome(f"[HTTP {response.status} {response.reason}]\n{text}", is_error=True)
    return Outcome(text)


class _Words(HTMLParser):
    """The words of a page, a line for each block."""

    SILENT: Final = frozenset(("script", "style", "noscript", "template", "svg", "head"))
    INLINE: Final = frozenset(
        ("a", "b", "i", "em", "strong", "span", "code", "small", "sub", "sup", "u", "abbr", "q")
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self._n_silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - its interface
        if tag in self.SILENT:
            self._n_silent += 1
        elif tag not in self.INLINE:
            self.words.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.SILENT:
            self._n_silent = max(0, self._n_silent - 1)
        elif tag not in self.INLINE:
            self.words.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._n_silent:
            self.words.append(re.sub(r"\s+", " ", data))


def plain(html: str) -> str:
    """A page's text."""
    words = _Words()
    words.feed(html)
    words.close()
    lines = (line.strip() for line in "".join(words.words).split("\n"))
    return "\n".join(line for line in lines if line)


def _quoted(path: str) -> str:
    return "".join(c if c.isascii() else "".join(f"%{b:02X}" for b in c.encode()) for c in path)
