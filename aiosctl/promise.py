"""The short form of promise 1, scheduling never changes an answer, on the user's own model.

Some answers are taken one at a time; then again among a crowd, a token at a time where we may set
the policy, parked and resumed as there are more jobs than slots; from forks; and from a snapshot
file.  Tokens are compared one by one.

Rule 1: it ends within its time, whatever the model; what there was no time for is said.
Rule 2: whatever happens, Ctrl-C too, the policy is put back and the contexts are removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiosctl.finding import Finding, State

if TYPE_CHECKING:
    from aios_sdk.client import Client

CHECK = "promise 1"
N_ANSWERS = 6  # at most; fewer where the model is slow
N_TOKENS = 20  # of each
MAX_CROWD = 24  # jobs beside them; more slots than that and none is parked
SHARES = 4.0  # the answers' time alone, taken so often, is about the whole: the crowd is batched
TOPICS = ("rain", "bread", "clocks", "foxes", "maps", "salt")
CLEAN_UP_MS = 5000


@dataclass(slots=True)
class Answer:
    """One answer, first as it is alone."""

    number: int
    params: dict[str, Any]
    tokens: list[int] = field(default_factory=list)

    def differs(self, tokens: Sequence[int]) -> str | None:
        """How another one of the same differs, if it does."""
        if list(tokens) == self.tokens:
            return None
        pairs = zip(self.tokens, tokens, strict=False)
        place = next((n for n, (a, b) in enumerate(pairs) if a != b), len(self.tokens))
        return f"answer {self.number + 1} from its token {place + 1} on"


@dataclass(slots=True)
class Report:
    """What was compared, what wasn't and why, and what differed."""

    done: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    def finding(self, *, is_promised: bool) -> Finding:
        if self.differing:
            words = f"answers changed with the schedule: {'; '.join(self.differing)}"
            if is_promised:
                advice = "please report it with 'aiosctl model ls', your CPU and the daemon's log"
                return Finding(
                    CHECK, State.PROBLEM, f"{words}; the promise does not hold: {advice}"
                )
            advice = "it isn't promised with this --kv or on a GPU; '--kv exact' on the CPU is"
            return Finding(CHECK, State.NOTE, f"{words}; {advice}")
        left = f"; not checked: {'; '.join(self.missing)}" if self.missing else ""
        if not self.done:
            return Finding(CHECK, State.UNKNOWN, f"nothing could be compared{left}")
        words = f"the same answers alone, {', '.join(self.done)}"
        if not is_promised:
            return Finding(CHECK, State.NOTE, f"{words}, though --kv doesn't promise it{left}")
        return Finding(CHECK, State.OK, f"{words}: scheduling changes no answer here{left}")


class OutOfTime(Exception):  # noqa: N818 - nothing is wrong, there is only no more
    """The seconds are over."""


class Trial:
    """Runs it.  client is ours alone, control stays usable when client is closed."""

    def __init__(
        self,
        client: Client,
        control: Client,
        status: dict[str, Any],
        *,
        is_admin: bool,
        seconds: float,
        progress: Callable[[str], None],
    ) -> None:
        self._client = client
        self._control = control
        self._core: dict[str, Any] = status["cores"][0]
        self._is_admin = is_admin
        self._until_s = time.monotonic() + seconds
        self._seconds = seconds
        self._progress = progress
        self._contexts: list[str] = []
        self._report = Report()
        self._in_file: str | None = None

    def run(self) -> Report:
        """Everything, or as much as there is time for."""
        from aios_sdk.errors import DeadlineExceeded

        pool = ThreadPoolExecutor(N_ANSWERS + MAX_CROWD)
        try:
            answers = self._alone()
            self._in_file = self._read(answers[0])
            self._crowd(answers, pool)
            self._file(answers[0])
            self._forks(answers[0], pool)
        except (OutOfTime, DeadlineExceeded):
            self._report.missing.append(f"the rest, for want of time: give more than "
                                        f"--seconds {self._seconds:g}")  # fmt: skip
        finally:
            # First of all our calls end, so that no thread is left waiting for one.
            self._client.close()
            pool.shutdown(wait=True, cancel_futures=True)
            self._clean_up()
        return self._report

    # ------------------------------------------------------------ the parts

    def _alone(self) -> list[Answer]:
        """One after the other; as many as leave time for the rest."""
        answers: list[Answer] = []
        longest_s = 0.0
        self._generate(prompt="Hello", max_tokens=1)  # what only the first call waits for
        for number in range(N_ANSWERS):
            if number and SHARES * longest_s * (number + 1) > self._seconds:
                break
            self._progress(f"answer {number + 1} of at most {N_ANSWERS}, alone")
            answer = Answer(number, _params(number))
            began_s = time.monotonic()
            answer.tokens = self._generate(**answer.params)["tokens"]
            longest_s = max(longest_s, time.monotonic() - began_s)
            answers.append(answer)
        return answers

    def _read(self, answer: Answer) -> str:
        """A context with the answer's prompt, read and not yet answered."""
        context = self._context()
        prompt = answer.params["prompt"]
        self._call("context.append", context=context, prompt=prompt)
        self._call("context.prefetch", context=context)
        return context

    def _crowd(self, answers: list[Answer], pool: ThreadPoolExecutor) -> None:
        """All of them at once and more beside them, each context parked where there are slots too
        few, and a token at a time where that is ours to say."""
        n_others = min(MAX_CROWD, max(2, self._core["n_slots"] + 2 - len(answers)))
        if self._is_admin:
            self._control.call("sys.policy", policy="rr", quantum_tokens=1)
        else:
            self._report.missing.append("slices of one token (needs the right 'admin')")
        self._progress(f"{len(answers)} answers among {n_others} others")
        others = [pool.submit(self._generate, **_params(100 + n)) for n in range(n_others)]
        again = [pool.submit(self._generate, **answer.params) for answer in answers]
        n_slices = n_parks = 0
        for answer, result in zip(answers, again, strict=True):
            reply = result.result()
            n_slices += reply["usage"]["slices"]
            n_parks += reply["usage"]["parks"]
            self._compare(answer, reply["tokens"], "in the crowd")
        for other in others:
            n_parks += other.result()["usage"]["parks"]
        if not n_parks:
            self._report.missing.append("parking (there are slots enough for all)")
        self._report.done.append(
            f"among {n_others + len(answers) - 1} others ({n_slices} slices, {n_parks} parks)"
        )

    def _file(self, answer: Answer) -> None:
        """From a snapshot file; the crowd has pushed the context out of its slot."""
        assert self._in_file is not None
        if not self._core["snapshots"].get("file_limit_bytes"):
            self._report.missing.append("a snapshot file (the daemon keeps none)")
            return
        self._progress("resumed from a file")
        kept = self._call("context.snapshot", context=self._in_file, to="file")
        reply = self._generate(**{**answer.params, "prompt": None}, context=self._in_file)
        self._compare(answer, reply["tokens"], "from a file")
        if kept["residence"] == "file":
            self._report.done.append("resumed from a file")
        else:
            self._report.missing.append("a snapshot file (there are slots enough for all)")

    def _forks(self, answer: Answer, pool: ThreadPoolExecutor) -> None:
        """Two forks of one context, at once; of which one had gone on and was rewound."""
        self._progress("forked")
        context = self._read(answer)
        n_tokens = self._call("context.info", context=context)["n_tokens"]
        self._generate(context=context, max_tokens=4, ignore_eos=True, temperature=0)
        forks = []
        for _ in range(2):
            fork = self._call("context.fork", context=context, n_tokens=n_tokens)["context"]
            self._contexts.append(fork)
            forks.append(fork)
        params = {**answer.params, "prompt": None}
        for result in [pool.submit(self._generate, **params, context=fork) for fork in forks]:
            self._compare(answer, result.result()["tokens"], "from a fork")
        self._report.done.append("forked")

    def _compare(self, answer: Answer, tokens: Sequence[int], where: str) -> None:
        difference = answer.differs(tokens)
        if difference:
            self._report.differing.append(f"{difference}, {where}")

    # ------------------------------------------------------------ calls

    def _generate(self, **params: Any) -> dict[str, Any]:
        return self._call("llm.generate", **params)

    def _context(self) -> str:
        context: str = self._call("context.create")["context"]
        self._contexts.append(context)
        return context

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        left_ms = int((self._until_s - time.monotonic()) * 1000)
        if left_ms < 1:
            raise OutOfTime
        return self._client.call(method, deadline_ms=left_ms, **params)

    def _clean_up(self) -> None:
        from aios_sdk.errors import AiosError

        if self._is_admin:
            before = {key: self._core[key] for key in ("policy", "quantum_tokens", "lanes")}
            self._control.call("sys.policy", **before)
        for context in self._contexts:
            with suppress(AiosError):  # a cancelled call may hold it for a moment: `busy`
                self._control.call("context.delete", context=context, deadline_ms=CLEAN_UP_MS)


def _params(number: int) -> dict[str, Any]:
    """Prompts of several lengths; half of the answers greedy, half with a seed."""
    topic = TOPICS[number % len(TOPICS)]
    prompt = f"Note {number}. What is there to say of {topic}? " * (1 + number % 4)
    sampled = {"temperature": 0.9, "seed": 1000 + number, "repeat_penalty": 1.1}
    return {
        "prompt": prompt,
        "max_tokens": N_TOKENS,
        "ignore_eos": True,
        **(sampled if number % 2 else {"temperature": 0}),
    }
