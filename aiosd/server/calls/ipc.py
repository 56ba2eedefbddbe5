"""`ipc.*`: messages between the agents of a uid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

from aiosd.kernel.model import AgentId
from aiosd.server.calls.base import Result
from aiosd.server.generate import now_ms
from aiosd.services.access import Target, Verdict
from aiosd.services.mailboxes import Figures
from aiosd.services.saved_messages import Message

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call


class Mail:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    async def ipc_send(self, call: Call) -> Result:
        p = call.params
        to = AgentId(call.agent.uid, p["to"])
        is_kin = self._d.processes.are_kin(call.agent, to)
        await self._d.access.admit(call, "send", mailbox_of(to, is_kin=is_kin))
        body: bytes = msgpack.packb(p["body"])
        message = await self._d.mailboxes.send(call.agent, to, body, p.get("key"), now_ms())
        return {"message": message}

    async def ipc_receive(self, call: Call) -> Result:
        p, agent, session = call.params, call.agent, call.session.id
        lease_s = p["lease_ms"] / 1000 if "lease_ms" in p else self._d.config.ipc.lease_s
        found = await self._d.mailboxes.receive(
            agent, session, limit=p["limit"], timeout_s=p["timeout_ms"] / 1000, lease_s=lease_s
        )
        if call.is_gone:  # it left while they were on their way
            self._d.mailboxes.leave(agent, session)
        return {"messages": [_describe(message) for message in found]}

    async def ipc_ack(self, call: Call) -> Result:
        return {"acked": await self._d.mailboxes.ack(call.agent, call.params["message"])}

    async def ipc_list(self, call: Call) -> Result:
        p = call.params
        if not p["all"]:
            return {"mailboxes": [_figures(await self._d.mailboxes.figures(call.agent))]}
        subject, uid = call.subject, call.agent.uid
        found = await self._d.mailboxes.of_uid(uid, p["limit"] + 1, p.get("after", ""))
        shown = []
        for one in found[: p["limit"]]:
            agent = AgentId(uid, one.held.agent)
            target = mailbox_of(agent, is_kin=self._d.processes.are_kin(call.agent, agent))
            if self._d.access.decide(subject, "see", target).verdict is Verdict.ALLOWED:
                shown.append(_figures(one))
        more = {"next": found[p["limit"] - 1].held.agent} if len(found) > p["limit"] else {}
        return {"mailboxes": shown, **more}

    async def ipc_clear(self, call: Call) -> Result:
        agent = AgentId(call.agent.uid, call.params.get("agent", call.agent.name))
        await self._d.access.admit(call, "delete", mailbox_of(agent))
        return {"messages": await self._d.mailboxes.clear(agent)}


def mailbox_of(agent: AgentId, *, is_kin: bool = False) -> Target:
    """An agent's mailbox, as what access decides on."""
    return Target("mailbox", agent, agent.name, is_kin=is_kin)


def _describe(message: Message) -> Result:
    body: Any = msgpack.unpackb(message.body)
    return {
        "message": message.id,
        "from": message.sender,
        "body": body,
        "sent_ms": message.sent_ms,
        "deliveries": message.n_deliveries,
    }


def _figures(figures: Figures) -> Result:
    held = figures.held
    return {
        "agent": held.agent,
        "messages": held.n_messages,
        "bytes": held.n_bytes,
        "leased": figures.n_leased,
        "receivers": figures.n_receivers,
        **({} if held.oldest_ms is None else {"oldest_ms": held.oldest_ms}),
    }
