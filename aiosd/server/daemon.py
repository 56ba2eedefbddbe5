"""The daemon: the only place that constructs things, and the order in which they start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import structlog

from aios_sdk import wire
from aios_sdk.errors import Cancelled, Denied, QuotaExceeded, SyscallError, Unavailable
from aiosd import __version__, confine, logs
from aiosd.admission import Admission
from aiosd.config import Config
from aiosd.driver import Driver, JobResult
from aiosd.engine import thread as engine_thread
from aiosd.engine.base import Model
from aiosd.engine.chat import ChatTemplate
from aiosd.engine.engine import Engine
from aiosd.engine.snapshot_files import SnapshotFiles
from aiosd.engine.spans import Span
from aiosd.engine.thread import EngineThread, Message
from aiosd.engine.threads import ThreadAdapter
from aiosd.garbage import Sweeper
from aiosd.kernel import events as ev
from aiosd.kernel.kernel import Kernel
from aiosd.kernel.model import AgentId, JobId, Outcome
from aiosd.server import listener, notify, reload
from aiosd.server.access import AccessManager
from aiosd.server.act import Act
from aiosd.server.awaited import Awaited
from aiosd.server.budget import ParamsBudget
from aiosd.server.detached import DetachedJobs
from aiosd.server.embedder import ModelEmbedder
from aiosd.server.enrich import Enricher
from aiosd.server.figures import LAG_EVERY_S
from aiosd.server.generate import Work, now_ms
from aiosd.server.metrics import FromAnotherThread
from aiosd.server.offers import Offers
from aiosd.server.processes import Processes
from aiosd.server.prompts import Prompter
from aiosd.server.scrape import ScrapeServer
from aiosd.server.session import Session
from aiosd.server.syscalls import Syscalls
from aiosd.server.telemetry import Telemetry
from aiosd.server.tooling import OwnTools, ToolDoorkeeper
from aiosd.server.turns import Chores, InTurn
from aiosd.server.workers import Workers
from aiosd.services import saved_agents
from aiosd.services.agent_limits import LimitBook
from aiosd.services.agents import AgentRegistry
from aiosd.services.context import ContextStore
from aiosd.services.database import Database
from aiosd.services.mailboxes import Limits as MailboxLimits
from aiosd.services.mailboxes import Mailboxes
from aiosd.services.memory import Limits as MemoryLimits
from aiosd.services.memory import Memory
from aiosd.services.retention import Retention
from aiosd.services.saved_messages import Room
from aiosd.services.saved_notes import Quota
from aiosd.services.schema import MIGRATIONS
from aiosd.services.search import Search
from aiosd.services.storage.index import Index
from aiosd.services.storage.rows import Limits as StorageLimits
from aiosd.services.storage.store import Storage
from aiosd.services.tools.manager import ToolManager
from aiosd.services.tools.mcp_servers import McpServers

log = structlog.get_logger()
T = TypeVar("T")

DRAIN_S = 5.0  # how long clients may take to read their last words at shutdown
HOUSEKEEPING_S = 60.0
FLUSH_S = 10.0  # for contexts that are in no file yet; what doesn't fit is read again
ENGINE_STOP_S = 10.0  # longer than any step we let the engine take


class _EngineStuck(Exception):  # noqa: N818 - ends the task group, and is no error of anybody's
    """What waits for the engine would wait for ever."""


class Daemon:
    """One model served on one socket."""

    @classmethod
    async def open(
        cls,
        config: Config,
        model: Model,
        notifier: notify.Notifier | None = None,
        embedder: ModelEmbedder | None = None,
    ) -> Daemon:
        """A daemon with what an earlier one left.  DatabaseError says why not."""
        database = await Database.open(Path(config.state_dir) / "aiosd.db", MIGRATIONS)
        try:
            daemon = cls(config, model, database, notifier or notify.Notifier({}), embedder)
            await daemon.contexts.load()
            await daemon.access.privileges.load()
            for agent, figures in (await database.read(saved_agents.load_all)).items():
                daemon.agents.restore(agent, *figures)
            for agent in await daemon.agent_limits.load():
                daemon.put_in_force(agent)
            daemon.forget_strays()
        except BaseException:
            await database.close()
            raise
        return daemon

    def __init__(
        self,
        config: Config,
        model: Model,
        database: Database,
        notifier: notify.Notifier,
        embedder: ModelEmbedder | None,
    ) -> None:
        self.config = config
        self.notifier = notifier
        self.model = model
        self.database = database
        self.embedder = embedder
        self.is_stopping = False
        self.confinement: confine.Mechanisms | None = None  # known from the start of serving on
        self.is_stuck = False  # the engine's thread didn't end in time: the model is still in use
        self.started_ns = time.monotonic_ns()
        info = model.info
        self.loop = asyncio.get_running_loop()
        self.tasks = asyncio.TaskGroup()
        self.wire_limits = wire.Limits(frame_bytes=config.limits.frame_bytes)
        self.contexts = ContextStore(database, self.retention(), config.limits.contexts_per_uid)
        self.access = AccessManager(self)
        self.search = Search(database, embedder, self.in_worker, ram_bytes=config.search_ram)
        self.memory = Memory(
            database,
            self.search,
            MemoryLimits(
                config.limits.memory_note_bytes,
                config.limits.frame_bytes // 2,
                config.memory_hot,
                config.memory_ram,
                config.memory_k,
                self.memory_quota,
            ),
        )
        self.mailboxes = Mailboxes(database, self.mailbox_limits())
        self.storage = Storage(
            Path(config.state_dir) / "storage",
            database,
            self.storage_limits,
            now_ms,
            config=lambda: self.config.storage,
        )
        self.storage_index = Index(database, self.search, self.storage, lambda: self.config.storage)
        # By uid: long lists are made in turns, and of a uid's only one has its turns at a time.
        self.listings: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.agents = AgentRegistry(lambda agent: self.contexts.count_by_agent()[agent] > 0)
        template = ChatTemplate.of_model(info)
        self.prompter = Prompter(model, template)
        self.offers = Offers(model, template)
        self.engine = Engine(
            model,
            snapshot_ram_bytes=config.snapshot_ram,
            snapshot_files=_snapshot_files(config, model),
            prefix_ram_bytes=config.prefix_ram,
            prefill_tokens=config.prefill_tokens,
            step_ms=config.step_ms,
        )
        adapt = ThreadAdapter(self.engine.set_threads, config.n_threads)
        self.telemetry = Telemetry(
            now_ms, config.limits.events_waiting, config.limits.event_streams_per_uid
        )
        self.thread = EngineThread(
            self.engine,
            self._post_from_engine,
            adapt,
            self._note_spans,
            self.telemetry.figures.step_done,
        )
        self.driver = Driver(
            Kernel(info.n_slots, config.n_lanes, config.policy, config.quantum),
            self.thread,
            journal_events=config.limits.journal_events,
            admission=Admission(
                config.limits.jobs_per_agent, config.limits.jobs_per_uid, config.limits.jobs
            ),
            observer=self.telemetry,
        )
        self.agent_limits = LimitBook(database)
        self.detached = DetachedJobs(self)
        self.acts: dict[JobId, Act] = {}  # those of llm.act whose tools run
        self.saving: dict[JobId, tuple[Work, JobResult]] = {}  # jobs whose turn is being written
        self.enricher = Enricher(self)
        self.memory.on_waiting = self.enricher.wake
        self.tools = ToolManager(
            lambda: self.config.tools, ToolDoorkeeper(self), self.in_worker, self.telemetry
        )
        self.own_tools = OwnTools(self)
        self.processes = Processes(self)
        self.mcp = McpServers(
            self.tools,
            self.tasks.create_task,
            self.in_worker,
            hidden=(config.state_dir, config.socket),
        )
        self.awaited = Awaited(self.driver.await_answer, self.tools.usual_s, time.monotonic_ns)
        self.syscalls = Syscalls(self)
        self._sessions: dict[int, set[Session]] = {}
        self.params_budget = ParamsBudget(config.limits.params_bytes_per_uid)
        self._workers = Workers(self.loop)
        self.chores = Chores(self.loop)
        self.submitting = InTurn(self.loop)
        self._stop = asyncio.Event()
        self._reloading = asyncio.Lock()
        self.endpoints: tuple[listener.Endpoint, ...] = ()
        self.scraper: ScrapeServer | None = None
        self._overflow_uid = _overflow_uid()

    async def serve(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until stop(), then let everybody know, and leave.  ListenError: it can't."""
        try:
            with self._scraped():
                await self._serve(on_ready)
        except listener.ListenError:
            await self.database.close()
            raise

    @contextlib.contextmanager
    def _scraped(self) -> Iterator[None]:
        """Figures are served over HTTP meanwhile, if they are to be."""
        address = self.config.metrics.address()
        if address is None:
            yield
            return
        figures = FromAnotherThread(self)
        self.scraper = ScrapeServer(address, figures, self.config.socket_mode)
        try:
            yield
        finally:
            self.scraper.close()

    async def _serve(self, on_ready: Callable[[], None]) -> None:
        self.endpoints = listener.endpoints(Path(self.config.socket), self.config.socket_mode)
        self.thread.start()
        self.loop.set_exception_handler(logs.say_loop_bug)
        try:
            async with self.tasks:
                self.tasks.create_task(self.database.run())
                if self.embedder is not None:
                    self.embedder.start()
                await self.search.start()
                await self._mend_storage()
                await self._look_at_confinement()
                searching = self.tasks.create_task(self.search.run())
                enriching = self.tasks.create_task(self.enricher.run())
                mailing = self.tasks.create_task(self.mailboxes.run())
                self.tasks.create_task(self.access.audit.run())
                await self.access.begin()
                indexing = self.tasks.create_task(self.storage_index.run())
                housekeeping = self.tasks.create_task(self._keep_house())
                lag = self.tasks.create_task(self._watch_lag())
                with contextlib.suppress(OSError):  # what a killed daemon left, as far as we may
                    await self.in_worker(confine.sweep)
                await self.detached.resume()
                await self.own_tools.load()
                sparing = self.tasks.create_task(self.own_tools.keep_spares())
                await self.processes.resume()
                await self.mcp.configure(self.config.mcp)
                servers = [await self._listen(endpoint) for endpoint in self.endpoints]
                log.info(
                    "ready",
                    version=__version__,
                    socket=" ".join(endpoint.path for endpoint in self.endpoints),
                    pid=os.getpid(),
                    **self._facts(),
                )
                watching = self.tasks.create_task(self._watch())
                on_ready()
                self.notifier.ready(self._status())
                await self._stop.wait()
                self.is_stopping = True
                self.telemetry.daemon_changed("stopping", jobs=len(self.driver.jobs))
                self.notifier.stopping("stopping: calls end, contexts are parked")
                for server, endpoint in zip(servers, self.endpoints, strict=True):
                    server.close()
                    endpoint.remove()
                housekeeping.cancel()
                searching.cancel()
                enriching.cancel()
                indexing.cancel()
                watching.cancel()
                lag.cancel()
                sparing.cancel()
                await self.processes.close()
                await self._drain()
                await self.mcp.close()
                await self.tools.close()
                mailing.cancel()
                await self.storage.close()
                await self._flush()
                with contextlib.suppress(SyscallError):  # a full disk: when notes were used
                    await self.memory.flush()
                await self.access.audit.close()
                await self.database.close()
                if self.is_stuck:
                    raise _EngineStuck
        except* _EngineStuck:
            pass  # calls that waited for the engine have been cancelled with the group
        finally:
            self.is_stuck = not self.thread.stop(0 if self.is_stuck else ENGINE_STOP_S)
            if self.is_stuck:
                log.error("engine_stuck", waited_s=ENGINE_STOP_S)
            if self.embedder is not None:
                self.embedder.stop()
            self._workers.close()
            log.info("stopped")

    def forget_strays(self) -> None:
        """Let go the snapshot files of contexts that are no more."""
        known = {context.id for context in self.contexts.all()}
        for context in self.engine.contexts_in_files():
            if context not in known:
                self.engine.forget(context)

    def stop(self) -> None:
        """Begin an orderly shutdown."""
        self._stop.set()

    async def reload(self, load: Callable[[], Config]) -> None:
        """Read the configuration anew and put into force what can be; one reload at a time."""
        async with self._reloading:
            if not self.is_stopping:
                await reload.reload(self, load)

    def retention(self) -> Retention:
        """How many contexts are kept, for how long."""
        limits = self.config.limits
        return Retention(
            limits.contexts_per_agent, limits.context_idle_s * 1000, limits.contexts_bytes
        )

    def mailbox_limits(self) -> MailboxLimits:
        """What mailboxes may hold."""
        config = self.config.ipc
        room = Room(config.mailbox_messages, config.mailbox_bytes, config.uid_bytes)
        keep_ms = config.keep_s * 1000
        return MailboxLimits(config.message_bytes, room, config.receivers, keep_ms)

    async def _look_at_confinement(self) -> None:
        """What tools and agents can be confined with here, before the first is started; those
        that a killed daemon left are ended."""
        self.confinement = await self.in_worker(confine.Mechanisms.here)
        if n_swept := await self.in_worker(confine.sweep):
            log.warning("leftovers_ended", n=n_swept)

    async def _mend_storage(self) -> None:
        try:
            mended = await self.storage.recover()
        except SyscallError as error:  # a full disk: what is there can be read; more at next start
            log.error("storage_not_recovered", reason=error.message)
        else:
            if mended.is_anything:
                log.info("storage_recovered", **dataclasses.asdict(mended))

    def storage_limits(self, agent: AgentId) -> StorageLimits:
        """What an agent may store, by agent.limits or the configuration."""
        config = self.config.storage
        own = self.agent_limits.of(agent).storage_bytes
        return StorageLimits(
            n_bytes=config.agent_bytes if own is None else own,
            n_files=config.agent_files,
            versions_per_file=config.versions_per_file,
            history_bytes=config.history_bytes,
            bytes_per_uid=config.uid_bytes,
        )

    async def _listen(self, endpoint: listener.Endpoint) -> asyncio.Server:
        # uvloop's own removal of the file, on by default from Python 3.13 on, is ours to decide.
        return await self.loop.create_unix_server(  # type: ignore[call-arg]  # uvloop has it
            lambda: Session(self),
            sock=endpoint.sock,
            backlog=listener.BACKLOG,
            cleanup_socket=False,
        )

    async def _watch(self) -> None:
        """Tell the service manager what is done here; feed its watchdog while work moves."""
        before, is_hanging = self._pulses(), False
        while self.notifier.has_manager:
            await asyncio.sleep(self.notifier.look_s)
            now = self._pulses()
            if all(map(notify.is_alive, before, now)):
                self.notifier.moved()
                self.notifier.status(self._status())
                is_hanging = False
            elif not is_hanging:
                is_hanging = True
                log.error("engine_hangs", steps=self.thread.n_steps, seconds=self.notifier.look_s)
                self.notifier.status("the engine hangs: no step ends")
            before = now

    def _pulses(self) -> tuple[notify.Pulse, ...]:
        """Of the engine, and of the embedding model if there is one."""
        thread = self.thread
        engine = notify.Pulse(thread.n_steps, thread.busy_since_ns, bool(self.driver.kernel.lanes))
        if self.embedder is None:
            return (engine,)
        return engine, notify.Pulse(0, self.embedder.busy_since_ns, has_work=False)

    def _status(self) -> str:
        n_sessions = sum(len(group) for group in self._sessions.values())
        return (
            f"serving {self.model.info.name}: {n_sessions} connections, "
            f"{len(self.driver.jobs)} jobs, {len(self.driver.kernel.lanes)} of them in lanes"
        )

    async def _keep_house(self) -> None:
        """From time to time, let go what is past its time or its limits."""
        sweeper = Sweeper()
        while True:
            sweeper.sweep(is_quiet=not self.driver.jobs)
            try:
                for context in await self.contexts.retire(now_ms()):
                    self.driver.drop_context(context.id)
                    self.agents.leave(context.agent)
                    log.info("context_retired", context=context.id, uid=context.agent.uid)
                await self.detached.tidy()
                await self.memory.flush()
                self.enricher.wake()  # for agents that had too many jobs
                await self.access.tidy()
                await self.storage.tidy()
                await self.mailboxes.tidy(now_ms())
                await self.database.write(saved_agents.forget_unused)
            except SyscallError as error:
                log.warning("housekeeping", reason=error.message)
            await asyncio.sleep(HOUSEKEEPING_S)

    async def _watch_lag(self) -> None:
        """How much later than asked the loop comes to things."""
        while True:
            due_s = self.loop.time() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self.telemetry.figures.lags_s.append(max(0.0, self.loop.time() - due_s))

    async def _flush(self) -> None:
        """Park what is in no file yet.  A hanging engine costs reading again, not the leaving."""
        try:
            async with asyncio.timeout(FLUSH_S + ENGINE_STOP_S):
                n_files = await self.on_engine(lambda: self.engine.flush_to_files(FLUSH_S))
        except TimeoutError:
            self.is_stuck = True
            self.driver.abandon()
        else:
            log.info("flushed", contexts_in_files=n_files)

    async def _drain(self) -> None:
        """End every call with `unavailable`, give clients a while to read it, then close."""
        sessions = [s for group in self._sessions.values() for s in group]
        for job in list(self.driver.jobs):  # detached ones belong to no call
            self.driver.cancel(job, Outcome.UNAVAILABLE)
        for session in sessions:
            for call in list(session.calls.values()):
                call.end(Unavailable("the daemon is shutting down"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while any(s.calls for s in sessions):
                    waiting = [c.task for s in sessions for c in s.calls.values() if c.task]
                    await asyncio.wait(waiting)
        for session in sessions:
            session.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await asyncio.gather(*(s.gone.wait() for s in sessions))
        for session in sessions:
            if session.transport is not None:
                session.transport.abort()

    # ------------------------------------------------------------ for sessions and handlers

    async def in_worker(self, work: Callable[[], T], uid: int = 0, size: int = 0) -> T:
        """Run CPU work off the event loop; of a uid's long texts one at a time.

        size: characters of text, or bytes of params.
        """
        return await self._workers.run(work, uid, size)

    async def on_engine(self, work: Callable[[], T]) -> T:
        """Run something on the engine thread, after the step under way."""
        future: asyncio.Future[T] = self.loop.create_future()

        def settle(result: object, error: Exception | None) -> None:
            if future.done():
                return  # its caller was cancelled
            if error is None:
                future.set_result(cast(T, result))
            else:
                future.set_exception(error)

        def done(result: object, error: Exception | None) -> None:
            self.loop.call_soon_threadsafe(settle, result, error)

        self.thread.put(engine_thread.Call(work, done))
        self.thread.interrupt()
        return await future

    def put_in_force(self, agent: AgentId) -> None:
        """Have the agent's limits hold from now on."""
        limits = self.agent_limits.of(agent)
        own = [n for n in (limits.max_jobs, self.processes.max_jobs(agent)) if n is not None]
        self.driver.admission.limit(agent, min(own, default=None))
        self.driver.post(ev.LimitsChanged(agent, limits.weight or 1, limits.tokens_per_minute))

    def stall(self, job: JobId, *, is_stalled: bool) -> None:
        """The job's client stopped reading, or reads again."""
        if job in self.driver.jobs:
            self.driver.post(ev.OutputStalled(job) if is_stalled else ev.OutputDrained(job))

    def refuses(self, uid: int) -> SyscallError | None:
        """Why a new peer of this uid may not connect, if so."""
        if self.is_stopping:
            return Unavailable("the daemon is shutting down")
        if uid == self._overflow_uid:
            # Under a user namespace every foreign uid reads as this one: all users would be one.
            return Denied(f"peers with the overflow uid {uid} can't be told apart")
        limit = self.config.limits.connections_per_uid
        n_open = len(self._sessions.get(uid, ()))
        if n_open >= limit:
            return QuotaExceeded(
                f"uid {uid} has {n_open} connections, limit is {limit}", limit=limit, used=n_open
            )
        return None

    @property
    def n_connections(self) -> int:
        return sum(map(len, self._sessions.values()))

    @property
    def n_calls(self) -> int:
        """Calls in flight."""
        return sum(len(s.calls) for group in self._sessions.values() for s in group)

    def sessions_of(self, uid: int) -> set[Session]:
        """The open connections of a uid."""
        return self._sessions.setdefault(uid, set())

    def session_entered(self, session: Session) -> None:
        assert session.agent is not None
        self.agents.enter(session.agent, now_ms()).n_connections += 1
        log.debug("connected", session=session.id, uid=session.uid, agent=session.agent.name)

    def session_left(self, session: Session) -> None:
        assert session.agent is not None
        agent = self.agents.enter(session.agent, now_ms())
        agent.n_connections -= 1
        self.agents.leave(session.agent)
        self.storage.drop_uploads(session.id)
        self.mailboxes.leave(session.agent, session.id)
        self.processes.session_left(session)
        if not self._sessions.get(session.uid):
            self._sessions.pop(session.uid, None)

    def kill(self, agent: AgentId, but_answer_first: Session) -> None:
        """End the agent's connections, jobs and process, not its contexts.  The killer is answered
        first."""
        for session in list(self._sessions.get(agent.uid, ())):
            if session.agent != agent:
                continue
            killed = Cancelled(f"agent {agent.name} was killed")
            self.chores.add(partial(call.end, killed) for call in list(session.calls.values()))
            if session.transport is None:
                continue
            if session is but_answer_first:
                self.loop.call_soon(session.close)
            else:
                session.close()
        self.processes.kill(agent)
        self.detached.drop_of(agent)
        self.chores.add(
            partial(self.driver.cancel, job, Outcome.CANCELLED)
            for job, record in list(self.driver.jobs.items())
            if record.agent == agent
        )
        self.telemetry.agent_killed(agent)

    def memory_quota(self, agent: AgentId) -> Quota:
        """What an agent's notes may take."""
        limits, own = self.config.limits, self.agent_limits.of(agent).memory_bytes
        return Quota(
            own or limits.memory_bytes, limits.memory_bytes_per_uid, limits.memory_waiting_per_uid
        )

    # ------------------------------------------------------------ inside

    def _post_from_engine(self, message: Message) -> None:
        """Called on the engine thread."""
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to tell
            self.loop.call_soon_threadsafe(self.driver.from_engine, message)

    def _note_spans(self, spans: tuple[Span, ...]) -> None:
        """Called on the engine thread."""
        with contextlib.suppress(RuntimeError):  # likewise
            self.loop.call_soon_threadsafe(self.driver.timeline.add, spans)

    def _facts(self) -> dict[str, object]:
        info, config = self.model.info, self.config
        return {
            "model": info.name,
            "embedder": self.embedder.name if self.embedder else "none",
            "slots": info.n_slots,
            "slot_tokens": info.slot_tokens,
            "lanes": config.n_lanes,
            "policy": config.policy,
            "quantum": config.quantum,
            "exact": info.is_exact,
        }


def _snapshot_files(config: Config, model: Model) -> SnapshotFiles | None:
    """The file tier, if it is to be used."""
    if not config.snapshot_files:
        return None
    return SnapshotFiles(
        Path(config.state_dir) / "snapshots",
        config.snapshot_files,
        model.info.fingerprint,
        lambda event, values: log.warning(event, **values),
    )


def _overflow_uid() -> int:
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return 65534
