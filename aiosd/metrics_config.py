"""The [metrics] table: where Prometheus may scrape, on this machine only."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from aiosd.settings import ConfigError, key

_HOST_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Metrics:
    """The daemon's figures beside `sys.metrics`, which needs no listener."""

    listen: str = key(
        "",
        "Where the figures are served over HTTP: `127.0.0.1:9464`, `[::1]:9464`, or the path of a "
        "Unix socket (with the mode `socket_mode`); empty: nowhere. An address is open to every "
        "user of this machine; what is there is the load, and nobody's part in it.",
    )

    def address(self) -> tuple[str, int] | Path | None:
        """(host, port), or the socket's path.  ConfigError if it isn't this machine's alone."""
        text = self.listen
        if not text:
            return None
        if text.startswith(("/", "~/", "unix:")):
            return Path(text.removeprefix("unix:")).expanduser().absolute()
        match = _HOST_PORT.fullmatch(text)
        if match is None or int(match["port"]) > 65535:
            raise ConfigError(
                f"metrics.listen is {text!r}, expected 127.0.0.1:PORT, [::1]:PORT or a path that "
                "begins with /"
            )
        host = "127.0.0.1" if match["host"] == "localhost" else match["host"].strip("[]")
        try:
            is_loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            is_loopback = False
        if not is_loopback:
            raise ConfigError(
                f"metrics.listen is {text!r}, which other machines may reach; it must be a "
                "loopback address (127.0.0.1, [::1], localhost) or the path of a Unix socket. To "
                "scrape from elsewhere put a proxy with a login before it"
            )
        return host, int(match["port"])
