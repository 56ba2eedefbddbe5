"""A driver for engine tests that does everything a kernel might, at random, and worse.

play() runs chains of turns under a random schedule; alone() runs one job with nobody beside it.
Both give what a client would see, so that the two can be compared.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from aiosd.engine.base import JobSpec, Model, Sampling, StepReport, TokenLogprob
from aiosd.engine.engine import Engine
from aiosd.engine.fake import FakeModel
from aiosd.kernel.model import ContextId, JobId, Lane, SlotId

MAX_TURNS_OF_THE_WHEEL = 20_000
MALICE_ENDS_AFTER = (
    300  # acts; then everyone may finish, as a schedule may lose faster than it reads
)


@dataclass(slots=True)
class Answer:
    """All that a client sees of one job."""

    text: str = ""
    calls: str = ""
    tokens: array[int] = field(default_factory=lambda: array("i"))
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    stop_string: str | None = None
    error: str | None = None
    n_prompt: int = 0
    n_output: int = 0
    n_cached: int | None = None
    n_first_tokens: int = 0
    n_before: int = 0  # tokens it gave before a restart, whose logprobs are lost


@dataclass(slots=True)
class Turn:
    """One call on a context: what is appended to its log, and how to answer."""

    prompt: array[int]
    max_tokens: int = 24
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    marker: str | int | None = None
    n_logprobs: int = 0
    ignore_eos: bool = False
    uid: int = 0

    def spec(
        self,
        job: str,
        context: ContextId,
        log: array[int],
        output: array[int] = array("i"),  # noqa: B008 - it is never written to
    ) -> JobSpec:
        return JobSpec(
            job=JobId(job),
            context=context,
            tokens=log + self.prompt,
            n_log=len(log),
            max_tokens=self.max_tokens,
            sampling=self.sampling,
            stop=self.stop,
            grammar=self.grammar,
            marker=self.marker,
            n_logprobs=self.n_logprobs,
            ignore_eos=self.ignore_eos,
            uid=self.uid,
            output=output,
        )


def note(report: StepReport, answers: dict[JobId, Answer]) -> None:
    """Add what a step said to the answers."""
    for output in report.outputs:
        answer = answers[output.job]
        assert output.tokens, "an output without tokens"
        answer.text += output.text
        answer.calls += output.calls
        answer.tokens.extend(output.tokens)
        answer.logprobs += output.logprobs
    for ending in report.endings:
        answer = answers[ending.job]
        assert answer.finish is None, "a job ended twice"
        answer.finish, answer.stop_string = ending.finish, ending.stop_string
        answer.error = ending.error
    for lane in report.lanes:
        answers[lane.job].n_prompt += lane.n_prompt
        answers[lane.job].n_output += lane.n_output
    for job, n_cached in report.n_cached.items():
        assert n_cached >= (answers[job].n_cached or 0), "n_cached went down"
        answers[job].n_cached = n_cached
    for job in report.first_tokens:
        answers[job].n_first_tokens += 1


def alone(model: Model, spec: JobSpec, prefill_tokens: int = 256) -> Answer:
    """What the job says with nobody beside it, in an engine of its own, in slot 0."""
    engine = Engine(model, snapshot_ram_bytes=0, prefill_tokens=prefill_tokens)
    engine.clear(SlotId(0))
    engine.open(spec)
    answers = {spec.job: Answer()}
    for _ in range(MAX_TURNS_OF_THE_WHEEL):
        note(engine.step([Lane(spec.job, spec.context, SlotId(0), None)]), answers)
        if answers[spec.job].finish is not None:
            break
    engine.close(spec.job)
    return answers[spec.job]


@dataclass(slots=True)
class _Chain:
    """A context, its turns, and the job that serves it now."""

    context: ContextId
    turns: Sequence[Turn]
    log: array[int] = field(default_factory=lambda: array("i"))
    answers: list[Answer] = field(default_factory=list)
    job: JobId | None = None
    slot: SlotId | None = None
    n_tries: int = 0
    n_cancels_left: int = 2

    def is_done(self) -> bool:
        return len(self.answers) == len(self.turns)


class Player:
    """Plays chains on one engine, in a schedule that the random generator chooses."""

    def __init__(
        self,
        engine: Engine,
        chains: Sequence[Sequence[Turn]],
        rng: random.Random,
        *,
        failures: FakeModel | None = None,
        restarted: Callable[[], Engine] | None = None,
        mischief: Callable[[], None] | None = None,
    ) -> None:
        """restarted: makes a new engine, as after a kill; mischief: anything, now and then."""
        self.engine = engine
        self.restarted = restarted
        self.mischief = mischief
        self.rng = rng
        self.failures = failures
        self.chains = [_Chain(ContextId(f"c{i}"), turns) for i, turns in enumerate(chains)]
        self.answers: dict[JobId, Answer] = {}
        self.free = [SlotId(i) for i in range(engine.model.info.n_slots)]

    def play(self) -> list[list[Answer]]:
        for n_acts in range(MAX_TURNS_OF_THE_WHEEL):
            waiting = [chain for chain in self.chains if not chain.is_done()]
            if not waiting:
                return [chain.answers for chain in self.chains]
            resident = [chain for chain in waiting if chain.slot is not None]
            if n_acts < MALICE_ENDS_AFTER:
                self._act(waiting, resident)
            elif resident:
                self._run(resident)
            else:
                self._load(self.rng.choice(waiting))
        raise AssertionError("the schedule makes no progress")

    def _act(self, waiting: list[_Chain], resident: list[_Chain]) -> None:
        dice = self.rng.random()
        chain = self.rng.choice(waiting)
        if self.restarted is not None and self.rng.random() < 0.15:
            self._act_on_files(chain)
        elif dice < 0.25 or not resident:
            if chain.slot is None:
                self._load(chain)
        elif dice < 0.75:
            self._run(resident)
        elif dice < 0.80:
            self._park(self.rng.choice(resident))
        elif dice < 0.84:
            self._move(self.rng.choice(resident))
        elif dice < 0.87:
            self._save_only(self.rng.choice(resident))
        elif dice < 0.90:  # a slot that was emptied behind the job's back
            slot = self.rng.choice(resident).slot
            assert slot is not None
            self.engine.clear(slot)
        elif dice < 0.93:  # a snapshot that was lost
            self.engine.forget(chain.context)
        elif dice < 0.96 and chain.job is not None and chain.n_cancels_left:
            chain.n_cancels_left -= 1
            self.engine.close(chain.job)
            chain.job = None
        elif dice >= 0.96 and self.failures is not None and len(resident) > 1:
            slot = self.rng.choice(resident).slot
            assert slot is not None
            self.failures.fail_next_decode([slot])
            self._run(resident, at_least=2)

    def _act_on_files(self, chain: _Chain) -> None:
        dice = self.rng.random()
        if dice < 0.3:
            self.engine.store(chain.context, chain.slot, self.rng.choice(["ram", "file"]))
        elif dice < 0.6:
            for _ in range(self.rng.choice([1, 5])):
                self.engine.tidy(self.rng.choice([0.3, 1000.0]))
        elif dice < 0.85 and self.mischief is not None:
            self.mischief()
        elif self.restarted is not None:
            self._restart()

    def _restart(self) -> None:
        """A new engine knows nothing but what is in files; jobs go on from what was noted down of
        their output, which may be less than what they gave."""
        assert self.restarted is not None
        if self.rng.random() < 0.5:
            self.engine.flush_to_files(self.rng.choice([0.0, 10.0]))
        self.engine = self.restarted()
        if self.failures is not None:
            assert isinstance(self.engine.model, FakeModel)
            self.failures = self.engine.model
        self.free = [SlotId(i) for i in range(self.engine.model.info.n_slots)]
        for chain in self.chains:
            chain.slot = None
            if chain.job is not None:
                given = self.answers.pop(chain.job).tokens
                self._open(chain, given[: self.rng.choice([len(given), len(given) // 2])])

    def _load(self, chain: _Chain) -> None:
        if not self.free:
            self._park(self.rng.choice([c for c in self.chains if c.slot is not None]))
        self.rng.shuffle(self.free)
        chain.slot = self.free.pop()
        self.engine.load(chain.context, chain.slot)

    def _park(self, chain: _Chain) -> None:
        assert chain.slot is not None
        if self.rng.random() < 0.8:
            self.engine.save(chain.context, chain.slot)
        dice = self.rng.random()
        if dice < 0.3:
            self.engine.clear(chain.slot)
        elif dice < 0.8:
            self.engine.release(chain.slot)
        self.free.append(chain.slot)
        chain.slot = None

    def _move(self, chain: _Chain) -> None:
        if self.free and chain.slot is not None:
            target = self.free.pop()
            self.engine.clear(target)
            self.engine.move(chain.context, chain.slot, target)
            self.free.append(chain.slot)
            chain.slot = target

    def _save_only(self, chain: _Chain) -> None:
        assert chain.slot is not None
        self.engine.save(chain.context, chain.slot)

    def _run(self, resident: list[_Chain], at_least: int = 1) -> None:
        chosen = self.rng.sample(resident, self.rng.randint(at_least, len(resident)))
        chosen.sort(key=lambda chain: chain.slot or 0)
        for chain in chosen:
            if chain.job is None:
                self._open(chain)
        for _ in range(self.rng.choice([1, 1, 2, 5, 20])):
            lanes = []
            for chain in chosen:
                assert chain.job is not None
                assert chain.slot is not None
                lanes.append(Lane(chain.job, chain.context, chain.slot, None))
            note(self.engine.step(lanes), self.answers)
            if any(self.answers[lane.job].finish is not None for lane in lanes):
                break
        for chain in chosen:
            assert chain.job is not None
            answer = self.answers[chain.job]
            if answer.finish is not None:
                self._turn_ended(chain, answer)

    def _open(self, chain: _Chain, output: array[int] | None = None) -> None:
        turn = chain.turns[len(chain.answers)]
        chain.n_tries += 1
        output = array("i") if output is None else output
        spec = turn.spec(f"{chain.context}.{chain.n_tries}", chain.context, chain.log, output)
        chain.job = spec.job
        self.answers[spec.job] = Answer(n_output=len(output), n_before=len(output))
        self.engine.open(spec)

    def _turn_ended(self, chain: _Chain, answer: Answer) -> None:
        assert chain.job is not None
        self.engine.close(chain.job)
        if answer.error is not None and "told to" in answer.error:  # it was alone in that call
            chain.job = None
            return
        chain.log = chain.log + chain.turns[len(chain.answers)].prompt + answer.tokens
        chain.answers.append(answer)
        chain.job = None


def play(
    engine: Engine,
    chains: Sequence[Sequence[Turn]],
    rng: random.Random,
    *,
    failures: FakeModel | None = None,
    restarted: Callable[[], Engine] | None = None,
    mischief: Callable[[], None] | None = None,
) -> list[list[Answer]]:
    """The answers of each chain's turns, in order."""
    return Player(
        engine, chains, rng, failures=failures, restarted=restarted, mischief=mischief
    ).play()


def play_alone(model: Model, chains: Sequence[Sequence[Turn]]) -> list[list[Answer]]:
    """The same turns, one after the other."""
    all_answers = []
    for i, turns in enumerate(chains):
        log = array("i")
        answers = []
        for k, turn in enumerate(turns):
            answer = alone(model, turn.spec(f"a{i}.{k}", ContextId(f"a{i}"), log))
            log = log + turn.prompt + answer.tokens
            answers.append(answer)
        all_answers.append(answers)
    return all_answers


def seen(answer: Answer, n_before: int = 0) -> Answer:
    """The part of an answer that no schedule may change.

    n_before: so many tokens came before a restart in the run to compare with.
    """
    logprobs = answer.logprobs[max(0, n_before - answer.n_before) :]
    has_restarted = bool(n_before or answer.n_before)
    return replace(
        answer,
        n_prompt=0,
        n_cached=None,
        n_first_tokens=0 if has_restarted else answer.n_first_tokens,
        n_before=0,
        logprobs=logprobs,
    )


def assert_same(answers: list[list[Answer]], expected: list[list[Answer]]) -> None:
    """Each answer is, in all that no schedule may change, what it is alone."""
    assert [[seen(answer) for answer in chain] for chain in answers] == [
        [seen(alone, answer.n_before) for alone, answer in zip(its, chain, strict=True)]
        for its, chain in zip(expected, answers, strict=True)
    ]
