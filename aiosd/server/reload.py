"""SIGHUP: read the configuration again, put into force what can be, say what needs a restart.

Rule 1: a file that can't be read or is wrong changes nothing; the daemon goes on as it was.
Rule 2: what is compared is the configuration in force before and the one just read, so a policy set
by sys.policy stays until the file says something else than it did.
Rule 3: open connections keep the limits that sys.hello told them; new ones get the new.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from aios_sdk import wire
from aiosd import logs
from aiosd.config import TABLES, Config, ConfigError, keys
from aiosd.kernel import events as ev

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload comes to: the configuration then in force, and the keys it was about."""

    config: Config
    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]


def compare(old: Config, new: Config) -> Change:
    """old with the values of new where a key can be reloaded; both kinds of changed keys."""
    values, applied, refused = _merge(Config, old, new)
    for name, of in TABLES.items():
        table = getattr(old, name)
        changed, table_applied, table_refused = _merge(of, table, getattr(new, name))
        values[name] = dataclasses.replace(table, **changed)
        applied += [f"{name}.{key}" for key in table_applied]
        refused += [f"{name}.{key}" for key in table_refused]
    return Change(dataclasses.replace(old, **values), tuple(applied), tuple(refused))


def _merge(of: type[Any], old: Any, new: Any) -> tuple[dict[str, Any], list[str], list[str]]:
    changed = {key: b for key, (_, b) in keys(of).items() if getattr(old, key) != getattr(new, key)}
    applied = [key for key, bounds in changed.items() if bounds.reloads]
    refused = [key for key, bounds in changed.items() if not bounds.reloads]
    return {key: getattr(new, key) for key in applied}, applied, refused


async def reload(daemon: Daemon, load: Callable[[], Config]) -> None:
    """Read the configuration anew and put it into force; the log and the manager get to know."""
    daemon.notifier.reloading()
    try:
        change = compare(daemon.config, await daemon.in_worker(load))
    except ConfigError as error:
        log.error("reload_refused", reason=str(error))
        daemon.notifier.ready(f"nothing reloaded: {error}")
        return
    except Exception:  # a bug here shall not end what is served
        log.exception("bug", name="reload")
        daemon.notifier.ready("nothing reloaded: a bug of aiosd, the log has the details")
        return
    apply(daemon, change)
    await daemon.own_tools.load()
    await daemon.mcp.configure(change.config.mcp)
    daemon.telemetry.daemon_changed(
        "reloaded",
        is_warning=bool(change.needs_restart),
        applied=list(change.applied),
        needs_restart=list(change.needs_restart),
    )
    daemon.notifier.ready(_words(change))


def apply(daemon: Daemon, change: Change) -> None:
    """Put the changed keys into force, and only those."""
    config, changed = change.config, set(change.applied)
    daemon.config = config
    if "log_level" in changed:
        logs.set_level(config.log_level)
    if changed & {"policy", "quantum", "lanes"}:
        daemon.driver.post(
            ev.PolicyChanged(
                config.policy if "policy" in changed else None,
                config.quantum if "quantum" in changed else None,
                config.n_lanes if "lanes" in changed else None,
            )
        )
    daemon.access.configure()
    daemon.tools.configure()
    limits = config.limits
    daemon.wire_limits = wire.Limits(frame_bytes=limits.frame_bytes)
    daemon.driver.admission.change(limits.jobs_per_agent, limits.jobs_per_uid, limits.jobs)
    daemon.mailboxes.limits = daemon.mailbox_limits()
    daemon.contexts.set_limits(daemon.retention(), limits.contexts_per_uid)


def _words(change: Change) -> str:
    said = []
    if change.applied:
        said.append(f"reloaded {', '.join(change.applied)}")
    if change.needs_restart:
        said.append(f"restart it for {', '.join(change.needs_restart)}")
    return "; ".join(said) or "reloaded, nothing had changed"
