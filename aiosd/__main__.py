"""The daemon's command line: flags over the config file over defaults, then serve until stopped.

Exit codes: 0 stopped in order, 1 can't serve (the reason is the last line), 2 usage or config.
"""

from __future__ import annotations

import argparse
import difflib
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from aiosd import __version__, config, logs


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the `aiosd` command."""
    args = vars(parse(argv))
    file, is_check = args.pop("config"), args.pop("check_config")
    if (saved := args.pop("replay")) is not None:
        sys.exit(_replay(Path(saved)))
    load = partial(config.load, file, args)
    try:
        settings = load()
    except config.ConfigError as error:
        print(f"aiosd: {error}", file=sys.stderr)  # noqa: T201 - before there is a log
        sys.exit(2)
    if is_check:
        print(config.to_toml(settings), end="")  # noqa: T201 - what --check-config is for
        sys.exit(0)
    logs.configure(settings.log_level, settings.log_format)
    # A service manager whose watchdog was not fed sends SIGABRT: the log then has where every
    # thread was (files and lines, no values).
    faulthandler.enable()
    code = 0
    try:
        _serve(settings, load)
    except _refusals() as error:
        logs.flush()
        print(f"aiosd: {error}", file=sys.stderr)  # noqa: T201 - the last line says why
        code = 1
    logs.flush()
    sys.exit(code)


def _replay(path: Path) -> int:
    """Show what a saved journal leads to; the exit code."""
    from aiosd import replaying

    try:
        for line in replaying.told(path):
            print(line)  # noqa: T201 - what --replay is for
    except replaying.ReplayError as error:
        sys.stdout.flush()
        print(f"aiosd: {error}", file=sys.stderr)  # noqa: T201 - the last line says why
        return 1
    return 0


def _serve(settings: config.Config, load: Callable[[], config.Config]) -> None:
    """Load the model and serve it.  load reads the configuration again, for SIGHUP."""
    # Before anything imports llama_cpp: OpenMP reads its environment once, when it is loaded.
    from aiosd.engine import threads

    threads.set_environment()
    import uvloop

    from aiosd import garbage
    from aiosd.server import embedder, listener, startup
    from aiosd.server.daemon import Daemon
    from aiosd.server.notify import Notifier

    notifier = Notifier()
    has_terminal = os.isatty(0)
    listener.raise_descriptor_limit()
    with listener.locked(Path(settings.state_dir)):
        notifier.loading(f"loading {settings.model}")
        model = startup.load_model(settings)
        vectors = embedder.load(settings)

        is_stuck = False

        async def run() -> None:
            nonlocal is_stuck
            daemon = await Daemon.open(settings, model, notifier, vectors)
            garbage.settle()

            def hang_up() -> None:
                if has_terminal and not os.isatty(0):
                    daemon.stop()  # the terminal that it was started in has gone
                else:
                    daemon.tasks.create_task(daemon.reload(load))

            def on_ready() -> None:
                daemon.loop.add_signal_handler(signal.SIGHUP, hang_up)

            for number in (signal.SIGTERM, signal.SIGINT):
                daemon.loop.add_signal_handler(number, daemon.stop)
            try:
                await daemon.serve(on_ready)
            finally:
                is_stuck = daemon.is_stuck

        try:
            uvloop.run(run())
        finally:
            if not is_stuck:  # to free what a hanging thread works on would crash
                model.close()


def _refusals() -> tuple[type[Exception], ...]:
    """The errors that say why the daemon can't serve; anything else is a bug with a traceback."""
    from aiosd.engine.base import EngineError
    from aiosd.engine.chat import TemplateError
    from aiosd.models import ModelError
    from aiosd.server.listener import ListenError
    from aiosd.services.database import DatabaseError

    return (DatabaseError, EngineError, ListenError, ModelError, TemplateError)


def _bytes(text: str) -> int:
    try:
        return config.parse_bytes(text)
    except config.ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


_FLAGS = (
    "socket", "state_dir", "models_dir", "model", "embedder", "slots",
    "slot_tokens", "policy", "quantum",
    "lanes", "prefill_tokens", "step_ms", "threads", "kv", "snapshot_ram",
    "prefix_ram", "snapshot_files", "memory_hot", "memory_ram", "memory_k", "search_ram",
    "log_level", "log_format",
)  # fmt: skip


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags; for one that isn't known, the nearest that is."""
    made = parser()
    args, unknown = made.parse_known_args(argv)
    if unknown:
        word = unknown[0].partition("=")[0]
        known = [option for action in made._actions for option in action.option_strings]
        near = difflib.get_close_matches(word, known, 1) if word.startswith("-") else []
        hint = f", did you mean {near[0]}?" if near else "; see aiosd --help"
        made.error(f"no such argument: {word}{hint}")
    return args


def parser() -> argparse.ArgumentParser:
    """What the man page is made from, too."""
    parser = argparse.ArgumentParser(
        prog="aiosd",
        description="Share one local model among many agents over a Unix socket.",
        epilog="Flags win over the config file, which wins over defaults. Talk to it with aiosctl.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file; see docs/CONFIG.md")
    known = config.keys(config.Config)
    for key in _FLAGS:
        field, bounds = known[key]
        kind = _bytes if bounds.is_bytes else int if field.type == "int" else str
        default = bounds.default_text or field.default
        parser.add_argument(
            "--" + key.replace("_", "-"),
            dest=key,
            type=kind,
            choices=bounds.choices or None,
            metavar=bounds.metavar or None,
            help=f"{bounds.summary} (default: {default})".replace("%", "%%"),
        )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="validate, print what is in force as TOML, and exit",
    )
    parser.add_argument(
        "--replay",
        metavar="FILE",
        help="run a journal that 'aiosctl journal' saved through the scheduler once more, "
        "checking every invariant, and exit",
    )
    parser.add_argument("--version", action="version", version=f"aiosd {__version__}")
    return parser


if __name__ == "__main__":
    main()
