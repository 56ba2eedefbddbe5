"""The engine: steps lanes over a model's slots, one decode batch and one token per lane at a time.

Rule 1, the only one about the cache: **a slot's cells are of use as far as their tokens equal the
job's tokens, compared one by one.**  For each slot the engine remembers exactly which tokens its
cells hold.  When a job starts, or comes back to a slot, the longest common prefix stays, the rest
is truncated, and reading goes on from there.  So a cancelled call (its tokens are no longer in the
log), a rewound context, an old snapshot, a lost one and a slot that holds someone else's cells need
no code of their own: they only differ in how much is left to read.  If all of a job's tokens are
there, the last one is read again, since logits aren't kept.

Rule 2: a job is charged for a position once (its high-water mark, in sequence.py).  What is read
again after a loss is counted in the stats only: charged to its slice, a context longer than the
slice would never get back to where it was.

Rule 3: what another context of the same uid has read needn't be read again (sharing.py).  A lane
takes over the cells of the slot or snapshot that shares most with it, and waits for a lane that is
reading, right now, what it will need.  What two contexts began with is kept in RAM for the next
(prefixes.py), whatever becomes of the two.

Rule 4: a decode that fails hurts one lane.  The lanes of a failed call are emptied and read again,
each in calls of its own until it is past the place; the one that fails there ends as failed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Lanes
from dataclasses import dataclass

from aiosd.engine.base import (
    Ending,
    EngineError,
    EngineStats,
    JobSpec,
    Logits,
    Model,
    OutOfCells,
    Output,
    Piece,
    StepReport,
)
from aiosd.engine.batch import Reader, plan
from aiosd.engine.pace import Pace
from aiosd.engine.prefixes import Prefixes
from aiosd.engine.sequence import Sequence, common_prefix, joined
from aiosd.engine.sharing import MIN_SHARED_TOKENS, Cells, best_slot, best_snapshot, leader_of
from aiosd.engine.snapshot_files import SnapshotFiles
from aiosd.engine.snapshots import Residence, SnapshotStore
from aiosd.engine.text import Words
from aiosd.engine.write_behind import Resident, WriteBehind
from aiosd.kernel.model import ContextId, JobId, Lane, LaneReport, Outcome, SlotId


@dataclass(slots=True)
class _Turn:
    """One lane within one step."""

    lane: Lane
    sequence: Sequence
    cells: Cells
    n_prompt: int = 0
    n_output: int = 0
    n_reread: int = 0
    words: Words | None = None

    def reads(self) -> bool:
        return self.sequence.leader is None and self.sequence.ending is None


class Engine:
    """base.Stepper on any Model.  Everything in it runs on the engine thread.

    snapshot_files   where snapshots go that RAM has no room for; None: nowhere
    prefix_ram_bytes memory for what several contexts began with (rule 3)
    prefill_tokens   most prompt tokens that one step reads
    step_ms          time a step should take while anyone talks (pace.py); 0: as long as it takes
    is_joint_batch   talkers and prefill share a decode call where they fit into one
    """

    def __init__(
        self,
        model: Model,
        *,
        snapshot_ram_bytes: int,
        snapshot_files: SnapshotFiles | None = None,
        prefix_ram_bytes: int = 0,
        prefill_tokens: int = 256,
        step_ms: int = 0,
        is_joint_batch: bool = False,
    ) -> None:
        if prefill_tokens < 1:
            raise ValueError(f"prefill_tokens is {prefill_tokens}, at least 1 is needed")
        self.model = model
        self.stats = EngineStats()
        self._pace = Pace(step_ms, prefill_tokens)
        self._is_joint_batch = is_joint_batch
        self._max_batch_tokens = model.info.max_batch_tokens
        self._snapshots = SnapshotStore(snapshot_ram_bytes, snapshot_files)
        self._prefixes = Prefixes(prefix_ram_bytes, model)
        self._write_behind = (
            None if snapshot_files is None else WriteBehind(self._snapshots, snapshot_files, model)
        )
        self._cells = [Cells() for _ in range(model.info.n_slots)]
        self._jobs: dict[JobId, Sequence] = {}
        self._n_opened = 0
        self._count_snapshots()

    # ---------------------------------------------------------------- jobs and slots

    def open(self, spec: JobSpec) -> None:
        """Make a job known.  Raises EngineError (no room for an answer, a grammar that doesn't
        compile): nothing has changed then."""
        if spec.job in self._jobs:
            raise ValueError(f"job {spec.job} is open already")
        self._jobs[spec.job] = Sequence(spec, self.model, self._n_opened)
        self._n_opened += 1

    def close(self, job: JobId) -> None:
        sequence = self._jobs.pop(job, None)
        if sequence is not None:
            sequence.close()
        for cells in self._cells:
            if cells.job == job:  # a later job of this name has other tokens
                cells.job = None

    def load(self, context: ContextId, slot: SlotId) -> None:
        self._restore(context, slot, is_owner=True)
        self._cells[slot].context = context

    def _restore(self, context: ContextId, slot: SlotId, *, is_owner: bool) -> None:
        """Bring the context's snapshot into the slot, if there is one; else the slot stays."""
        uid = self._snapshots.uid_of(context)
        if uid is None:
            return
        self.clear(slot)
        tokens = self._snapshots.restore(context, self.model, slot, is_owner=is_owner)
        if tokens is not None:
            self._cells[slot] = Cells(tokens, uid)
        self._count_snapshots()

    def save(self, context: ContextId, slot: SlotId) -> None:
        cells = self._cells[slot]
        if cells.context == context and cells.tokens and cells.uid is not None:
            self._snapshots.save(context, cells.uid, cells.tokens, self.model, slot)
            self._count_snapshots()

    def clear(self, slot: SlotId) -> None:
        self._cells[slot] = Cells()
        self.model.truncate(slot, 0)

    def release(self, slot: SlotId) -> None:
        self._cells[slot].context = self._cells[slot].job = None

    def move(self, context: ContextId, source: SlotId, target: SlotId) -> None:
        cells = self._cells[source]
        self.clear(target)
        if cells.context == context and cells.tokens:
            self.model.copy(source, target)
            self._cells[target] = cells
        self.clear(source)

    def forget(self, context: ContextId) -> None:
        self._snapshots.forget(context)
        self._count_snapshots()

    def snapshot_bytes(self, context: ContextId) -> int:
        """The size of the context's snapshot in RAM, 0 if it has none.  Safe on any thread."""
        return self._snapshots.n_bytes(context)

    def residence_of(self, context: ContextId) -> Residence | None:
        """Where the context's snapshot is, whatever is in a slot.  Safe on any thread."""
        return self._snapshots.residence_of(context)

    def contexts_in_files(self) -> list[ContextId]:
        """Whose files there are; forget() those of contexts that are no more."""
        files = self._snapshots.files
        return [] if files is None else files.contexts()

    def store(self, context: ContextId, slot: SlotId | None, to: Residence) -> bool:
        """Have a snapshot of the context there: of its slot if it has one, else of what was kept.
        False: there is nothing to keep, or no room."""
        resident = None if slot is None else self._resident(slot)
        if resident is None or resident.context != context:
            is_there = self._snapshots.bring(context, to)
        else:
            save = self._snapshots.save_to_ram if to == "ram" else self._snapshots.save_to_file
            is_there = save(context, resident.uid, resident.tokens, self.model, resident.slot)
        self._count_snapshots()
        return is_there

    def tidy(self, idle_s: float) -> float | None:
        """Write a piece of what is in no file yet: parked contexts, and those in slots that have
        been at rest for a while."""
        if self._write_behind is None:
            return None
        again_s = self._write_behind.tidy(idle_s, self._residents())
        self._count_snapshots()
        return again_s

    def flush_to_files(self, deadline_s: float) -> int:
        """Before the end: write what is in slots and in RAM to files, as far as time and budget
        allow.  How many contexts are in files as they are now."""
        if self._write_behind is None:
            return 0
        n_done = self._write_behind.flush(self._residents(), deadline_s)
        self._count_snapshots()
        return n_done

    def _resident(self, slot: SlotId) -> Resident | None:
        cells = self._cells[slot]
        if cells.context is None or cells.uid is None or not cells.tokens:
            return None
        return Resident(cells.context, slot, cells.uid, cells.tokens)

    def _residents(self) -> list[Resident]:
        found = (self._resident(SlotId(index)) for index in range(len(self._cells)))
        return [resident for resident in found if resident is not None]

    def set_threads(self, n_threads: int) -> None:
        self.model.set_threads(n_threads)
        self.stats.n_threads = n_threads

    def _count_snapshots(self) -> None:
        stats, files = self.stats, self._snapshots.files
        stats.snapshot_ram_bytes = self._snapshots.buffer_bytes
        stats.snapshots_lost = self._snapshots.n_lost
        stats.prefix_ram_bytes = self._prefixes.n_bytes
        if files is not None:
            stats.snapshot_files, stats.snapshot_file_bytes = len(files), files.n_bytes
            stats.snapshot_files_bad = files.n_bad
            stats.snapshot_writes_failed = files.n_failed

    # ---------------------------------------------------------------- the step

    def step(self, lanes: Lanes[Lane]) -> StepReport:
        """Read one batch and let each lane that has read all of its tokens say one more."""
        began_ns = time.perf_counter_ns()
        turns = {lane.slot: self._turn(lane) for lane in lanes}
        if len(turns) != len(lanes):
            raise ValueError(f"two lanes share a slot: {lanes}")
        n_cached: dict[JobId, int] = {}
        first_tokens: list[JobId] = []
        # What a job said before a restart may have been all it had to say.
        going_on = [turn for turn in turns.values() if turn.sequence.ending is None]
        in_order = sorted(going_on, key=lambda turn: (turn.lane.rank, turn.sequence.serial))
        for place, turn in enumerate(in_order):
            self._align(turn, in_order[:place], n_cached)
        starting = [turn for turn in in_order if turn.sequence.is_starting]
        for pieces in self._plan([turn for turn in in_order if turn.reads()]):
            self._decode(pieces, turns)
        for turn in starting:
            ending = turn.sequence.ending
            if turn.n_output or (ending is not None and ending.error is None):
                first_tokens.append(turn.lane.job)
        self.stats.steps += 1
        self.stats.busy_ns += time.perf_counter_ns() - began_ns
        return _report(turns, n_cached, tuple(first_tokens))

    def _turn(self, lane: Lane) -> _Turn:
        sequence = self._jobs[lane.job]
        if sequence.is_told:
            raise ValueError(f"job {lane.job} has ended, it can't have a lane")
        words, sequence.words = sequence.words, None
        return _Turn(lane, sequence, self._cells[lane.slot], words=words)

    def _align(self, turn: _Turn, before: Lanes[_Turn], n_cached: dict[JobId, int]) -> None:
        """Rules 1 and 3: keep, copy or wait for what equals the job's tokens.

        before   the lanes that read before this one: only for them it may wait, so that no two
                 ever wait for each other
        """
        sequence, cells = turn.sequence, turn.cells
        if cells.job == turn.lane.job and not self._leader_is_done(sequence, before):
            return
        is_own = cells.context == turn.lane.context
        if cells.uid != sequence.spec.uid:
            self._keep(turn, 0)
        else:
            n_kept = common_prefix(cells.tokens, sequence.tokens)
            self._keep(turn, min(n_kept, sequence.n_useful))
        n_own = len(turn.cells.tokens) if is_own else 0
        while not self._take_over(turn):
            pass  # what was to be taken over was bad, and is gone
        if len(turn.cells.tokens) > n_own:
            self._prefixes.keep(sequence.spec.uid, turn.cells.tokens, turn.lane.slot)
            self._count_snapshots()
        n_read = {other.lane.job: len(other.cells.tokens) for other in before}
        sequence.leader = leader_of(
            sequence, (other.sequence for other in before), n_read, len(turn.cells.tokens)
        )
        n_gained = sequence.note_kept(len(turn.cells.tokens))
        if n_gained or (sequence.leader is None and sequence.n_cached is None):
            sequence.n_cached = n_cached[turn.lane.job] = (sequence.n_cached or 0) + n_gained
            self.stats.cached_tokens += n_gained
        sequence.end_if_read(len(turn.cells.tokens))

    def _leader_is_done(self, sequence: Sequence, before: Lanes[_Turn]) -> bool:
        """Whether the lane that this one waited for has read what it needs, or is gone, or comes
        after it now."""
        leader = sequence.leader
        if leader is None:
            return False
        return not any(
            turn.lane.job == leader.job and len(turn.cells.tokens) < leader.n_tokens
            for turn in before
        )

    def _keep(self, turn: _Turn, n_kept: int) -> None:
        """The first n_kept of the slot's cells are the job's, the rest goes."""
        slot, cells = turn.lane.slot, turn.cells
        if n_kept < len(cells.tokens) and not self.model.truncate(slot, n_kept):
            self.model.truncate(slot, 0)
            n_kept = 0
        del cells.tokens[n_kept:]
        cells.uid = turn.sequence.spec.uid
        cells.context, cells.job = turn.lane.context, turn.lane.job

    def _take_over(self, turn: _Turn) -> bool:
        """Copy what another slot, or a snapshot, has of the job's tokens and this slot has not.
        False: it was a snapshot that turned out bad, and the slot is empty."""
        sequence, slot = turn.sequence, turn.lane.slot
        n_kept = len(turn.cells.tokens)
        if len(sequence.tokens) - n_kept <= MIN_SHARED_TOKENS:
            return True
        by_slot = best_slot(sequence, self._cells, slot, n_kept)
        n_in_slot = n_kept if by_slot is None else by_slot[1]
        uid = sequence.spec.uid
        donor = best_snapshot(sequence, self._snapshots.tokens_of(uid), n_in_slot)
        n_known = n_in_slot if donor is None else donor[1]
        in_files = self._snapshots.tokens_in_files(uid)
        donor = best_snapshot(sequence, in_files, n_known, is_in_file=True) or donor
        prefix = self._prefixes.best(sequence, n_known if donor is None else donor[1])
        if prefix is not None:
            self.clear(slot)
            self._cells[slot] = Cells(self._prefixes.restore(prefix, slot), uid)
        elif donor is not None:
            self._restore(donor[0], slot, is_owner=False)
        elif by_slot is not None:
            source = by_slot[0]
            self.model.copy(source, slot)
            held = self._cells[source]
            self._cells[slot] = Cells(held.tokens[:], held.uid)
        else:
            return True
        is_good = bool(self._cells[slot].tokens)
        turn.cells = self._cells[slot]
        n_kept = common_prefix(turn.cells.tokens, sequence.tokens)
        self._keep(turn, min(n_kept, sequence.n_useful))
        return is_good

    def _plan(self, in_order: Lanes[_Turn]) -> list[list[Piece]]:
        readers = [
            Reader(
                turn.lane.slot,
                start := len(turn.cells.tokens),
                turn.sequence.tokens,
                start < turn.sequence.alone_until,
            )
            for turn in in_order
        ]
        is_anyone_talking = any(len(reader.tokens) - reader.start == 1 for reader in readers)
        return plan(
            readers,
            prefill_tokens=self._pace.piece(is_anyone_talking=is_anyone_talking),
            max_batch_tokens=self._max_batch_tokens,
            is_joint=self._is_joint_batch,
        )

    def _decode(self, pieces: list[Piece], turns: dict[SlotId, _Turn]) -> None:
        began_ns = time.perf_counter_ns()
        try:
            rows = iter(self.model.decode(pieces))
        except EngineError as error:
            self._recover(error, pieces, turns)
            return
        self._note_pace(pieces, time.perf_counter_ns() - began_ns)
        for piece in pieces:
            turn = turns[piece.slot]
            turn.cells.tokens.extend(piece.tokens)
            n_new, n_again = turn.sequence.note_read(piece.start, len(turn.cells.tokens))
            turn.n_prompt += n_new
            turn.n_reread += n_again
            self.stats.prompt_tokens += n_new
            self.stats.reread_tokens += n_again
            if piece.wants_logits:
                self._say(turn, next(rows))

    def _note_pace(self, pieces: list[Piece], elapsed_ns: int) -> None:
        n_tokens = sum(len(piece.tokens) for piece in pieces)
        if n_tokens == len(pieces):
            self._pace.note_talking(elapsed_ns)
        else:
            self._pace.note_reading(n_tokens, elapsed_ns)

    def _say(self, turn: _Turn, row: Logits) -> None:
        sequence = turn.sequence
        n_output = sequence.n_output
        sequence.end_if_read(len(turn.cells.tokens))
        if sequence.ending is not None:
            return
        try:
            turn.words = joined(turn.words, sequence.say(self.model, row))
        except EngineError as error:
            sequence.fail(str(error))
        turn.n_output += sequence.n_output - n_output
        self.stats.output_tokens += turn.n_output

    def _recover(self, error: EngineError, pieces: list[Piece], turns: dict[SlotId, _Turn]) -> None:
        """Rule 4: empty what is undefined now, and find out whose fault it was."""
        for piece in pieces:
            turn = turns[piece.slot]
            if len(pieces) == 1:
                turn.sequence.fail(str(error))
            else:
                turn.sequence.alone_until = piece.start + len(piece.tokens)
            if not isinstance(error, OutOfCells):  # that one changes nothing
                self.clear(piece.slot)


def _report(
    turns: dict[SlotId, _Turn], n_cached: dict[JobId, int], first_tokens: tuple[JobId, ...]
) -> StepReport:
    reports: list[LaneReport] = []
    outputs: list[Output] = []
    endings: list[Ending] = []
    for turn in turns.values():
        job, ending, words = turn.lane.job, turn.sequence.ending, turn.words
        outcome = None
        if ending is not None:
            endings.append(ending)
            turn.sequence.is_told = True
            outcome = Outcome.DONE if ending.error is None else Outcome.FAILED
        if words is not None:
            outputs.append(Output(job, words.text, words.tokens, words.logprobs, words.calls))
        reports.append(LaneReport(job, turn.n_prompt, turn.n_output, outcome))
    # Coming back to its slot, a job reads its last token again: that is how it goes on, no loss.
    rereading = frozenset(turn.lane.job for turn in turns.values() if turn.n_reread > 1)
    leaders = {
        turn.lane.job: turn.sequence.leader.job
        for turn in turns.values()
        if turn.sequence.leader is not None
    }
    return StepReport(
        tuple(reports), tuple(outputs), tuple(endings), n_cached, first_tokens, rereading, leaders
    )
