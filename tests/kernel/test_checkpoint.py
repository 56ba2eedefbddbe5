"""Checkpoints: a kernel that was written and read back goes on exactly as the first would have."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import settings

from aiosd.kernel import checkpoint
from aiosd.kernel import events as ev
from aiosd.kernel.kernel import Kernel
from aiosd.kernel.replay import Header, replay_on
from tests.kernel.test_properties import Programs
from tests.kernel.words import did, done, submitted

HEADER = Header(n_slots=2, n_lanes=1, policy="rr", quantum_tokens=4)


def through_json(kernel: Kernel) -> Kernel:
    return checkpoint.decode(json.loads(json.dumps(checkpoint.encode(kernel))))


class Checkpointed(Programs):
    """Any program, cut in two anywhere, with a checkpoint at the cut."""

    def teardown(self) -> None:
        super().teardown()
        if not hasattr(self, "world"):
            return
        journal, said = self.world.journal, self.world.said
        for cut in sorted({len(journal) * part // 4 for part in range(4)}):
            kernel = self.world.header.make_kernel()
            for now_ns, event in journal[:cut]:
                kernel.handle(event, now_ns)
            copy = through_json(kernel)
            assert checkpoint.encode(copy) == checkpoint.encode(kernel)
            again = [actions for _, _, actions in replay_on(copy, journal[cut:])]
            assert again == said[cut:]


TestCheckpointed = Checkpointed.TestCase
TestCheckpointed.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def busy() -> Kernel:
    kernel = HEADER.make_kernel()
    for number, name in enumerate(("a", "b", "c")):
        kernel.handle(submitted(name), number)
    kernel.handle(done(did("a", 4)), 10)
    kernel.handle(ev.JobPaused(submitted("c").job), 11)
    return kernel


def test_one_job_in_two_collections_is_one_job_again() -> None:
    copy = through_json(busy())
    for job in copy.jobs.values():
        if job in copy._policy:
            assert any(job is other for other in copy._policy)
    assert copy.counters == busy().counters
    assert copy.slots == busy().slots


def test_fields_that_are_added_come_along_by_themselves() -> None:
    kernel = busy()
    kernel._extra = {("uid", 1000): [1.5, {"x"}], "of": kernel._table}  # type: ignore[attr-defined]
    copy: Any = through_json(kernel)
    assert copy._extra[("uid", 1000)] == [1.5, {"x"}]
    assert copy._extra["of"] is copy._table


def test_what_is_no_data_cannot_be_kept() -> None:
    kernel = busy()
    kernel._hook = print  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="built-in function print> can't be kept in a checkpoint"):
        checkpoint.encode(kernel)


@pytest.mark.parametrize(
    "plain",
    [
        None,
        {},
        {"root": 1, "objects": []},
        {"root": ["object", 0], "objects": []},
        {"root": ["object", 0], "objects": [["Job", {}]]},
        {"root": ["object", 0], "objects": [["Kernel", {}]]},
        {"root": ["object", 0], "objects": [["Popen", {"args": "x"}]]},
        {"root": ["object", 0], "objects": [["Kernel", {"__class__": 1}]]},
        {"root": ["object", 0], "objects": [["Job", {"shoe_size": 1}]]},
        {"root": ["object", 0], "objects": [["list", 5]]},
        {"root": ["enum", "JobState", "SLEEPING"], "objects": []},
        {"root": ["enum", "Kernel", "x"], "objects": []},
        {"root": ["value", "Popen", {}], "objects": []},
    ],
    ids=repr,
)
def test_what_is_no_checkpoint_is_refused(plain: object) -> None:
    with pytest.raises(ValueError, match=r"not a|no class|no field"):
        checkpoint.decode(plain)


def test_a_checkpoint_that_contradicts_itself_is_refused() -> None:
    plain = json.loads(json.dumps(checkpoint.encode(busy())).replace('"PAUSED"', '"STALLED"'))
    with pytest.raises(ValueError, match="not a sound checkpoint: AssertionError: "):
        checkpoint.decode(plain)


def test_every_field_of_a_job_is_there() -> None:
    [written] = [
        fields
        for name, fields in checkpoint.encode(busy())["objects"]  # type: ignore[attr-defined]
        if name == "Job" and fields["id"] == "c"
    ]
    known = {field.name for field in dataclasses.fields(busy().jobs[submitted("c").job])}
    assert set(written) == known
