"""Leaving in order although the engine hangs: bounded in time, with everything else done."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import uvloop

from aios_sdk import wire
from aiosd import config
from aiosd.engine.fake import FakeModel
from aiosd.server import daemon as daemon_module
from aiosd.server.daemon import Daemon
from tests.server.harness import RawPeer


def test_a_hanging_engine_holds_up_the_leaving_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DRAIN_S", "FLUSH_S", "ENGINE_STOP_S"):
        monkeypatch.setattr(daemon_module, name, 0.2)
    socket, state = tmp_path / "s.sock", tmp_path / "state"
    state.mkdir()
    settings = config.load(
        None, {"socket": str(socket), "state_dir": str(state), "slots": 2, "slot_tokens": 256}
    )
    model = FakeModel(n_slots=2, slot_tokens=256)
    hangs, goes_on, ready = threading.Event(), threading.Event(), threading.Event()
    daemons: list[Daemon] = []

    def hang(_pieces: object) -> None:
        hangs.set()
        goes_on.wait()

    async def run() -> None:
        daemons.append(await Daemon.open(settings, model))
        await daemons[0].serve(on_ready=ready.set)

    thread = threading.Thread(target=lambda: uvloop.run(run()))
    thread.start()
    try:
        assert ready.wait(30)
        with RawPeer(str(socket)) as peer:
            assert peer.ask("context.create", name="kept").error is None
            model.before_decode = hang
            peer.send(wire.encode_request(1, "llm.generate", {"prompt": "hello"}))
            assert hangs.wait(30)
            daemons[0].loop.call_soon_threadsafe(daemons[0].stop)
            answer = peer.receive()
            assert answer is None or "shutting down" in str(answer)
            thread.join(60)
        assert not thread.is_alive()
        assert daemons[0].is_stuck
        assert not socket.exists()
        said = capsys.readouterr().out
        assert "engine_stuck" in said
        assert "bug" not in said
    finally:
        goes_on.set()
        thread.join(60)
    assert daemons[0].thread.stop(60)
    model.before_decode = None

    async def names() -> list[str | None]:
        daemon = await Daemon.open(settings, model)
        kept = [context.name for context in daemon.contexts.all()]
        await daemon.database.close()
        return kept

    assert uvloop.run(names()) == ["kept"]
