"""Two agents and a notebook: versions, a large file in parts, a grant, a search, and going back.

AIOSD_SOCKET=… python sdk/examples/shared_notebook.py
"""

from __future__ import annotations

import hashlib
import os
import time

from aios_sdk import Client, Denied

ENTRIES = ("The harbour sleeps at night.", "At dawn the fishing boats leave.", "(spilled ink)")
N_BYTES = 5_000_000
INDEXED_WITHIN_S = 60


def search(client: Client, query: str) -> list[str]:
    """Paths that fit, once all that was written has been indexed."""
    until = time.monotonic() + INDEXED_WITHIN_S
    while (found := client.storage.search(query))["pending"] and time.monotonic() < until:
        time.sleep(0.05)
    return [match["path"] for match in found["results"]]


def main(socket: str | None = None) -> None:
    with Client(socket, agent="writer") as writer, Client(socket, agent="editor") as editor:
        if "notebook" in {entry["path"] for entry in writer.storage.list()}:
            writer.storage.delete("notebook", recursive=True)  # of an earlier run
        for entry in ENTRIES:
            made = writer.storage.write("notebook/day.txt", entry + "\n", mode="append")
        print(f"version {made['version']}, {made['size']} bytes")
        back = writer.storage.rollback("notebook/day.txt")
        text = writer.storage.read("notebook/day.txt").decode()
        print(f"version {back['version']} has no ink: {text!r}")

        try:
            editor.storage.read("writer:/notebook/day.txt")
        except Denied as error:
            print(f"not shared: {error}")
        grant = writer.storage.share("notebook", "editor", expires_s=3600)
        print(f"shared: {editor.storage.read('writer:/notebook/day.txt').decode()!r}")
        writer.storage.revoke(grant)

        noise = os.urandom(N_BYTES)
        with writer.storage.open("notebook/noise.bin", "wb") as file:
            for begin in range(0, N_BYTES, 70_000):
                file.write(noise[begin : begin + 70_000])
        with writer.storage.open("notebook/noise.bin") as kept:
            is_same = hashlib.sha256(kept.readall()).digest() == hashlib.sha256(noise).digest()
        print(f"{N_BYTES} bytes came back the same: {is_same}")
        print(f"about boats: {search(writer, 'fishing boats')}")


if __name__ == "__main__":
    main()
