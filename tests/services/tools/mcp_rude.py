"""A program that speaks MCP as nobody should, by hand.  python mcp_rude.py HOW"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

how = sys.argv[1]
OBJECT = {"type": "object", "properties": {}}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def send(message: dict[str, Any]) -> None:
    say(json.dumps({"jsonrpc": "2.0", **message}))


def tools() -> list[dict[str, Any]]:
    fine = {"name": "fine", "inputSchema": OBJECT}
    if how == "array":
        return [{"name": "list", "inputSchema": {"type": "array"}}]
    if how != "tools":
        return [fine]
    return [
        fine,
        {"name": "fine", "inputSchema": OBJECT},
        {"name": "a b", "inputSchema": OBJECT},
        {"name": "../up", "inputSchema": OBJECT},
        {"name": "n" * 65, "inputSchema": OBJECT},
        {"name": "vast", "inputSchema": {"type": "object", "title": "x" * 70_000}},
        {"name": "wordy", "description": "\x1b[31m" + "w" * 9000, "inputSchema": OBJECT},
        *({"name": f"many{i}", "inputSchema": OBJECT} for i in range(200)),
    ]


if how == "silent":
    time.sleep(3600)
if how == "greeting":
    say("Welcome to the rude server!")
if how == "garbage":
    while True:
        say("{]")
if how == "endless":
    while True:
        sys.stdout.write("x" * 65536)
for line in sys.stdin:
    message = json.loads(line)
    match message.get("method"):
        case "initialize" if how == "modern":
            versions = {"supported": ["2026-07-28"], "requested": "2025-11-25"}
            error = {"code": -32022, "message": "Unsupported protocol version", "data": versions}
            send({"id": message["id"], "error": error})
        case "server/discover":
            found = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
            kept = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
            send({"id": message["id"], "result": {**found, **kept}})
        case "initialize":
            about = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "rude", "version": "1"},
            }
            send({"id": message["id"], "result": about})
        case "tools/list":
            kept = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
            more = kept if how == "modern" else {}
            send({"id": message["id"], "result": {"tools": tools(), **more}})
            if how == "begging":
                while True:  # and never read an answer
                    send({"id": "beg", "method": "sampling/createMessage", "params": {}})
        case "tools/call":
            text = "y" * 2_000_000 if how == "oversize" else "done"
            result: dict[str, Any] = {"content": [{"type": "text", "text": text}]}
            if how == "modern":
                result["resultType"] = "complete"
            if how == "no result":
                result = {"content": "nothing of the kind"}
            if how == "refusing":
                send({"id": message["id"], "error": {"code": -32000, "message": "not today"}})
            else:
                send({"id": message["id"], "result": result})
        case "ping":
            send({"id": message["id"], "result": {}})
