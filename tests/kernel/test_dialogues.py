"""What the kernel says, line by line: when this happens, then do that."""

from __future__ import annotations

from aiosd.kernel import events as ev
from aiosd.kernel.model import JobId, JobState, Outcome
from tests.kernel.words import (
    CANCELLED,
    DONE,
    FAILED,
    INTERRUPT,
    Script,
    awaited,
    cancelled,
    clear,
    did,
    done,
    drained,
    dropped,
    finish,
    first_token,
    load,
    move,
    paused,
    resumed,
    run,
    save,
    stalled,
    submitted,
    tell,
)

# ---------------------------------------------------------------- lanes and lines


def test_a_job_alone_runs_at_once_without_a_bound_and_ends() -> None:
    script = Script()
    assert script.says(submitted("a")) == [tell("a", "running"), run(("a", 0))]
    assert script.says(done(did("a", 5, DONE, n_prompt=20))) == [finish("a", DONE)]
    assert script.kernel.jobs == {}


def test_a_new_job_joins_the_run_under_way_when_a_lane_is_free() -> None:
    script = Script(n_lanes=2, policy="fifo")
    script.says(submitted("a"))
    assert script.says(submitted("b")) == [tell("b", "queued", 1), INTERRUPT]
    assert script.says(done(did("a"))) == [tell("b", "running"), run(("a", 0), ("b", 1))]


def test_one_run_is_interrupted_once_however_many_come() -> None:
    script = Script(n_lanes=4)
    script.says(submitted("a"))
    assert script.says(submitted("b")) == [tell("b", "queued", 1), INTERRUPT]
    assert script.says(submitted("c")) == [tell("c", "queued", 2)]
    assert script.says(cancelled("a")) == []
    assert script.kernel.counters.interrupts == 1


def test_fifo_with_full_lanes_is_not_disturbed_by_a_new_job() -> None:
    script = Script(n_lanes=2, policy="fifo")
    script.says(submitted("a"), submitted("b"), done(did("a")))
    assert script.says(submitted("c")) == [tell("c", "queued", 1)]
    assert script.says(submitted("d")) == [tell("d", "queued", 2)]
    assert script.says(done(did("a"), did("b", 9, DONE))) == [
        finish("b", DONE),
        move("A", 0, 2),  # cheaper than saving B, whose context may be wanted again
        tell("c", "running"),
        run(("a", 2), ("c", 3)),
    ]


def test_round_robin_bounds_its_lanes_as_soon_as_someone_waits() -> None:
    script = Script(n_lanes=1, quantum_tokens=16)
    assert script.says(submitted("a")) == [tell("a", "running"), run(("a", 0))]
    assert script.says(submitted("b")) == [tell("b", "queued", 1), INTERRUPT]
    assert script.says(done(did("a", 6))) == [run(("a", 0, 10))]
    assert script.says(submitted("c")) == [tell("c", "queued", 2)]  # a's turn ends anyway


def test_a_turn_that_was_over_before_anyone_came_ends_when_someone_comes() -> None:
    script = Script(n_lanes=1, quantum_tokens=4)
    script.says(submitted("a"), submitted("b"))
    assert script.says(done(did("a", 100))) == [tell("b", "running"), run(("b", 1, 4))]


def test_round_robin_goes_round() -> None:
    script = Script(n_lanes=1, quantum_tokens=4)
    script.says(submitted("a"), submitted("b"), submitted("c"))
    assert script.says(done(did("a", 4))) == [tell("b", "running"), run(("b", 1, 4))]
    assert script.says(done(did("b", 4))) == [tell("c", "running"), run(("c", 2, 4))]
    assert script.says(done(did("c", 4))) == [run(("a", 0, 4))]
    assert script.says(done(did("a", 4))) == [run(("b", 1, 4))]


def test_round_robin_lets_a_short_job_pass_a_long_one() -> None:
    script = Script(n_lanes=1, quantum_tokens=4)
    script.says(submitted("long"), submitted("short"), done(did("long", 4)))
    assert finish("short", DONE) in script.says(done(did("short", 3, DONE)))
    assert script.state("long") is JobState.RUNNING


def test_fifo_does_not_let_a_short_job_pass_a_long_one() -> None:
    script = Script(n_lanes=1, policy="fifo", quantum_tokens=4)
    script.says(submitted("long"), submitted("short"))
    for _ in range(20):
        assert script.says(done(did("long", 100))) == [run(("long", 0))]
    assert script.says(done(did("long", 1, DONE)))[0] == finish("long", DONE)
    assert script.state("short") is JobState.RUNNING


def test_prompt_and_output_tokens_both_use_up_the_turn() -> None:
    script = Script(n_lanes=1, quantum_tokens=16)
    script.says(submitted("a"), submitted("b"))
    assert script.says(done(did("a", 2, n_prompt=9))) == [run(("a", 0, 5))]
    assert script.says(done(did("a", 0, n_prompt=64))) == [tell("b", "running"), run(("b", 1, 16))]


def test_an_interrupted_job_keeps_its_place_and_what_is_left_of_its_turn() -> None:
    script = Script(n_lanes=2, quantum_tokens=6)
    script.says(submitted("a"), submitted("b"), submitted("c"), submitted("d"))
    assert script.says(done(did("a", 1)))[-1] == run(("a", 0, 5), ("b", 1, 5))
    assert script.says(cancelled("b")) == [INTERRUPT]
    assert script.says(done(did("a", 1), did("b", 1))) == [
        finish("b", CANCELLED),
        tell("c", "running"),
        run(("a", 0, 4), ("c", 2, 4)),
    ]


def test_a_turn_that_begins_ends_with_those_under_way_or_a_quantum_later() -> None:
    script = Script(n_lanes=2, quantum_tokens=6)
    script.says(*map(submitted, "abcd"))
    assert script.says(done(did("a", 4)))[-1] == run(("a", 0, 2), ("b", 1, 8))
    assert script.says(cancelled("b")) == [INTERRUPT]
    assert script.says(done(did("a", 0), did("b", 0)))[-1] == run(("a", 0, 2), ("c", 2, 8))


def test_with_a_turn_end_those_of_which_less_than_half_is_left() -> None:
    script = Script(n_lanes=2, quantum_tokens=6)
    script.says(*map(submitted, "abcd"), done(did("a", 4)))
    assert script.says(done(did("a", 2), did("b", 2)))[-1] == run(("b", 1, 6), ("c", 2, 6))
    assert script.says(done(did("b", 4), did("c", 6)))[-1] == run(("a", 0, 6), ("d", 3, 6))


def test_with_a_slot_for_each_lane_every_turn_is_a_quantum() -> None:
    script = Script(n_slots=2, n_lanes=2, quantum_tokens=6)
    script.says(*map(submitted, "abc"))
    assert script.says(done(did("a", 4)))[-1] == run(("a", 0, 2), ("b", 1, 6))
    assert script.says(done(did("a", 2), did("b", 2)))[-1] == run(("c", 0, 6), ("b", 1, 4))


def test_a_paused_job_comes_back_to_its_place_with_what_is_left_of_its_turn() -> None:
    script = Script(n_lanes=1, quantum_tokens=16)
    script.says(submitted("a"), submitted("b"), submitted("c"), done(did("a", 6)), paused("a"))
    assert script.says(done(did("a", 1))) == [
        tell("a", "paused"),
        tell("b", "running"),
        run(("b", 1, 16)),
    ]
    assert script.says(resumed("a")) == []  # b's turn ends by itself
    assert script.kernel.position(JobId("a")) == 1
    assert script.says(done(did("b", 16))) == [tell("a", "resumed"), run(("a", 0, 9))]


def test_a_job_that_comes_back_with_its_turn_used_up_starts_a_new_one_at_the_back() -> None:
    script = Script(n_lanes=1, quantum_tokens=4)
    script.says(submitted("a"), stalled("a"), done(did("a", 50)))
    script.says(submitted("b"), submitted("c"), done(did("b", 1)), drained("a"))
    assert script.kernel.position(JobId("a")) == 1  # its ticket is the oldest
    assert script.says(done(did("b", 3))) == [tell("c", "running"), run(("c", 2, 4))]
    assert [script.kernel.position(JobId(job)) for job in "ab"] == [1, 2]


def test_the_lanes_of_a_run_that_are_used_up_go_back_in_their_order() -> None:
    script = Script(n_slots=8, n_lanes=2, quantum_tokens=4)
    script.says(submitted("a"), *map(submitted, "bcd"), done(did("a", 1)))
    script.says(done(did("a", 3), did("b", 4)))
    assert [script.kernel.position(JobId(job)) for job in "ab"] == [1, 2]
    assert [lane.job for lane in script.kernel.lanes] == ["c", "d"]


# ---------------------------------------------------------------- stalled, paused, cancelled


def test_a_job_whose_reader_stops_leaves_its_lane_and_comes_back() -> None:
    script = Script(n_lanes=1, policy="fifo")
    script.says(submitted("a"), submitted("b"))
    assert script.says(stalled("a")) == [INTERRUPT]
    assert script.says(done(did("a"))) == [tell("b", "running"), run(("b", 1))]
    assert script.state("a") is JobState.STALLED
    assert script.says(drained("a")) == []
    assert script.says(done(did("b", 1, DONE))) == [finish("b", DONE), run(("a", 0))]


def test_a_reader_who_reads_again_before_the_run_came_home_lost_nothing() -> None:
    script = Script()
    script.says(submitted("a"))
    assert script.says(stalled("a")) == [INTERRUPT]
    assert script.says(drained("a")) == []
    assert script.says(done(did("a"))) == [run(("a", 0))]


def test_a_pause_taken_back_before_it_took_effect_is_not_told() -> None:
    script = Script()
    script.says(submitted("a"))
    assert script.says(paused("a")) == [INTERRUPT]
    assert script.says(resumed("a")) == []
    assert script.says(done(did("a"))) == [run(("a", 0))]


def test_a_job_stalled_and_paused_is_ready_only_when_neither() -> None:
    for first, second in ((drained, resumed), (resumed, drained)):
        script = Script()
        script.says(submitted("a"), stalled("a"), paused("a"))
        assert script.says(done(did("a"))) == [tell("a", "paused")]
        assert script.says(first("a")) == []
        assert script.state("a") is not JobState.READY
        last = script.says(second("a"))
        assert last == [tell("a", "resumed"), run(("a", 0))]


def test_a_job_that_ends_in_the_run_it_was_paused_in_has_ended() -> None:
    script = Script()
    script.says(submitted("a"), paused("a"))
    assert script.says(done(did("a", 1, DONE))) == [finish("a", DONE)]


def test_a_job_paused_before_it_ever_ran_is_told_so_and_then_runs() -> None:
    script = Script(policy="fifo")
    script.says(submitted("a"), submitted("b"))
    assert script.says(paused("b")) == [tell("b", "paused")]
    assert script.says(done(did("a", 1, DONE))) == [finish("a", DONE)]
    assert script.says(resumed("b")) == [tell("b", "running"), run(("b", 1))]


def test_a_cancel_of_a_running_job_interrupts_and_drops_its_result() -> None:
    script = Script()
    script.says(submitted("a"))
    assert script.says(cancelled("a", Outcome.DEADLINE)) == [INTERRUPT]
    assert script.state("a") is JobState.CANCELLING
    assert script.says(done(did("a", 5, DONE))) == [finish("a", Outcome.DEADLINE)]


def test_the_first_of_two_cancels_names_the_outcome() -> None:
    script = Script()
    script.says(submitted("a"), cancelled("a", Outcome.DEADLINE), cancelled("a"))
    assert script.says(done(did("a"))) == [finish("a", Outcome.DEADLINE)]


def test_a_cancelled_job_is_cancelled_though_paused_and_stalled() -> None:
    script = Script()
    script.says(submitted("a"), cancelled("a"), paused("a"), stalled("a"))
    assert script.says(done(did("a"))) == [finish("a", CANCELLED)]


def test_a_cancel_disturbs_no_other_lane() -> None:
    script = Script(n_lanes=3, policy="fifo")
    script.says(submitted("a"), submitted("b"), submitted("c"), done(did("a")))
    assert script.says(cancelled("b")) == [INTERRUPT]
    assert script.says(done(did("a"), did("b"), did("c"))) == [
        finish("b", CANCELLED),
        move("A", 0, 3),
        run(("c", 2), ("a", 3)),
    ]


def test_a_lane_that_failed_ends_alone_and_its_slot_is_emptied() -> None:
    script = Script(n_lanes=3, quantum_tokens=4)
    script.says(submitted("a"), submitted("b"), submitted("c"), submitted("d"), done(did("a")))
    said = script.says(done(did("a", 1), did("b", 0, FAILED), did("c", 1)))
    assert said == [
        clear(1),
        finish("b", FAILED),
        tell("d", "running"),
        run(("a", 0), ("d", 1), ("c", 2)),
    ]
    assert script.slots() == "ADC."


def test_a_context_whose_job_failed_is_loaded_anew_for_its_next_job() -> None:
    script = Script()
    script.says(submitted("a"))
    assert script.says(done(did("a", 0, FAILED))) == [clear(0), finish("a", FAILED)]
    assert script.says(submitted("b", "A"))[0] == load("A", 0)


# ---------------------------------------------------------------- slots


def test_a_context_stays_in_its_slot_between_its_jobs() -> None:
    script = Script()
    script.says(submitted("a"), done(did("a", 1, DONE)))
    assert script.slots() == "A..."
    script.says(submitted("b"), done(did("b", 1, DONE)))
    assert script.slots() == "AB.."
    assert script.says(submitted("a")) == [tell("a", "running"), run(("a", 0))]


def test_the_idle_context_that_was_used_longest_ago_goes_first() -> None:
    script = Script(n_slots=3)
    for job in "abca":
        script.says(submitted(job), done(did(job, 1, DONE)))
    assert script.slots() == "ABC"
    assert script.says(submitted("d")) == [
        save("B", 1),
        clear(1),
        tell("d", "running"),
        run(("d", 1)),
    ]


def test_an_idle_context_goes_before_one_whose_job_waits() -> None:
    script = Script(n_slots=2, policy="fifo")
    script.says(submitted("a"), paused("a"), done(did("a")))  # paused, used longer ago
    script.says(submitted("b"), done(did("b", 1, DONE)))  # idle
    assert script.says(submitted("c"))[:2] == [save("B", 1), clear(1)]


def test_a_context_that_is_awaited_soon_goes_after_an_idle_one() -> None:
    script = Script(n_slots=3)
    for job in "abc":
        script.says(submitted(job), done(did(job, 1, DONE)))
    script.says(awaited("A", until_ns=100), awaited("B", until_ns=90))
    assert script.says(submitted("d"))[:2] == [save("C", 2), clear(2)]
    script.says(done(did("d", 1, DONE)), awaited("D", until_ns=80))
    # of those that wait, the one that has longest to
    assert script.says(submitted("e"))[:2] == [save("A", 0), clear(0)]


def test_who_is_awaited_in_vain_is_idle_again_and_so_is_who_came_back() -> None:
    script = Script(n_slots=2)
    script.says(submitted("a"), done(did("a", 1, DONE)), awaited("A", until_ns=4))
    script.says(submitted("b"), done(did("b", 1, DONE)))
    assert script.says(submitted("c"))[:2] == [save("A", 0), clear(0)]  # in vain
    script.says(done(did("c", 1, DONE)), awaited("B", until_ns=10**9))
    script.says(submitted("b2", "B"), done(did("b2", 1, DONE)))
    script.says(submitted("c2", "C"), done(did("c2", 1, DONE)))
    assert script.says(submitted("d"))[:2] == [save("B", 1), clear(1)]  # it came back


def test_a_context_that_is_awaited_goes_before_a_job_that_is_next() -> None:
    script = Script(n_slots=2, quantum_tokens=4)
    script.says(submitted("a"), done(did("a", 1, DONE)), awaited("A"))
    script.says(submitted("b"), submitted("c"))
    assert script.says(done(did("b", 4)))[:2] == [save("A", 0), clear(0)]


def test_a_paused_job_that_loses_its_slot_is_parked_and_told_nothing_new() -> None:
    script = Script(n_slots=1, policy="fifo")
    script.says(submitted("a"), paused("a"), done(did("a")))
    assert script.says(submitted("b")) == [
        save("A", 0),
        clear(0),
        tell("b", "running"),
        run(("b", 0)),
    ]
    assert script.kernel.jobs[JobId("a")].is_parked
    assert script.says(resumed("a")) == []
    assert script.says(done(did("b", 1, DONE))) == [
        finish("b", DONE),
        save("B", 0),
        clear(0),
        load("A", 0),
        tell("a", "resumed"),
        run(("a", 0)),
    ]


def test_a_paused_or_stalled_job_goes_before_a_ready_one() -> None:
    script = Script(n_slots=2, quantum_tokens=4)
    script.says(submitted("a"), submitted("b"), done(did("a", 4)), stalled("b"), done(did("b")))
    script.says(submitted("c"))  # a runs in 0, b is stalled in 1, c is next
    assert script.says(done(did("a", 4)))[:2] == [save("B", 1), clear(1)]


def test_among_ready_jobs_the_last_in_the_line_goes_first() -> None:
    script = Script(n_slots=3, n_lanes=1, quantum_tokens=4)
    script.says(*map(submitted, "abcde"))
    script.says(done(did("a", 4)), done(did("b", 4)))
    assert script.slots() == "ABC"
    assert script.says(done(did("c", 4))) == [
        save("C", 2),  # its turn is just over: it is the last of e, a, b, c
        clear(2),
        tell("c", "paused"),
        tell("d", "running"),
        run(("d", 2, 4)),
    ]


def test_a_parked_job_is_told_when_it_goes_on() -> None:
    script = Script(n_slots=1, quantum_tokens=4)
    script.says(submitted("a"), submitted("b"))
    assert script.says(done(did("a", 4))) == [
        save("A", 0),
        clear(0),
        tell("a", "paused"),
        tell("b", "running"),
        run(("b", 0, 4)),
    ]
    assert script.says(done(did("b", 4))) == [
        save("B", 0),
        clear(0),
        load("A", 0),
        tell("b", "paused"),
        tell("a", "resumed"),
        run(("a", 0, 4)),
    ]


def test_a_context_that_loses_its_slot_before_its_new_job_ran_is_no_park() -> None:
    script = Script(n_slots=2, n_lanes=1, policy="fifo")
    script.says(submitted("b"), done(did("b", 1, DONE)))
    script.says(submitted("a"), submitted("c"), submitted("b"), ev.PolicyChanged(n_lanes=2))
    assert script.says(done(did("a"))) == [
        save("B", 0),
        clear(0),
        tell("c", "running"),
        run(("c", 0), ("a", 1)),
    ]
    assert (script.kernel.counters.parks, script.kernel.jobs[JobId("b")].is_parked) == (0, False)
    assert script.says(done(did("c"), did("a", 1, DONE)))[-2:] == [
        tell("b", "running"),
        run(("c", 0), ("b", 1)),
    ]


def test_a_dropped_context_frees_its_slot_even_beside_a_run() -> None:
    script = Script()
    script.says(submitted("a"), done(did("a", 1, DONE)), submitted("b"))
    assert script.says(dropped("A")) == [clear(0)]
    assert script.slots() == ".B.."
    assert script.says(dropped("A")) == []


def test_a_context_dropped_and_made_anew_has_nothing_to_load() -> None:
    script = Script(n_slots=1)
    script.says(submitted("a"), done(did("a", 1, DONE)), dropped("A"))
    assert script.says(submitted("a")) == [tell("a", "running"), run(("a", 0))]


def test_a_lane_left_alone_moves_beside_the_others_only_when_that_pays() -> None:
    script = Script(n_slots=4, n_lanes=3, policy="fifo", quantum_tokens=4)
    script.says(*map(submitted, "abc"), done(did("a")))
    script.says(ev.PolicyChanged(policy="rr"), *map(submitted, "def"), paused("b"))
    assert script.says(done(did("a"), did("b"), did("c")))[-1] == run(
        ("a", 0, 2), ("c", 2, 3), ("d", 3, 3)
    )


# ---------------------------------------------------------------- policy, cost, views


def test_a_change_of_policy_takes_effect_at_the_next_run_and_keeps_the_line() -> None:
    script = Script(n_lanes=1, policy="fifo", quantum_tokens=4)
    script.says(*map(submitted, "abc"))
    assert script.says(ev.PolicyChanged(policy="rr", quantum_tokens=8)) == [INTERRUPT]
    assert (script.kernel.policy, script.kernel.quantum_tokens) == ("rr", 8)
    assert script.says(done(did("a", 2))) == [run(("a", 0, 6))]
    assert script.says(done(did("a", 6))) == [tell("b", "running"), run(("b", 1, 8))]
    assert script.says(ev.PolicyChanged(policy="fifo")) == [INTERRUPT]
    assert script.says(done(did("b", 2))) == [run(("b", 1))]
    assert [script.kernel.position(JobId(job)) for job in "ca"] == [1, 2]


def test_more_and_fewer_lanes_from_the_next_run_on() -> None:
    script = Script(n_lanes=1, policy="fifo")
    script.says(*map(submitted, "abc"))
    assert script.says(ev.PolicyChanged(n_lanes=3)) == [INTERRUPT]
    assert script.says(done(did("a")))[-1] == run(("a", 0), ("b", 1), ("c", 2))
    assert script.says(ev.PolicyChanged(n_lanes=1)) == [INTERRUPT]
    assert script.says(done(did("a"), did("b"), did("c"))) == [run(("a", 0))]
    assert [script.kernel.position(JobId(job)) for job in "bc"] == [1, 2]


def test_setting_what_is_in_force_disturbs_nobody() -> None:
    script = Script()
    script.says(submitted("a"))
    assert script.says(ev.PolicyChanged()) == []
    assert script.says(ev.PolicyChanged(policy="rr", quantum_tokens=16, n_lanes=1)) == []


def test_finish_tells_what_the_job_cost() -> None:
    script = Script(n_slots=1, quantum_tokens=4)
    script.says(submitted("a"))  # at 1
    script.says(submitted("b"))  # at 2
    script.says(done(did("a", 0, n_prompt=9)))  # at 3: b runs
    script.says(first_token("b"))  # at 4
    script.says(first_token("b"))  # at 5: only the first one counts
    script.says(done(did("b", 2, n_prompt=3)))  # at 6: b is parked, a runs
    script.says(done(did("a", 4)))  # at 7: b runs
    script.says(done(did("b", 1, DONE)))  # at 8
    cost = script.finishes[0].cost
    assert (cost.slices, cost.parks, cost.n_prompt, cost.n_output) == (2, 1, 3, 3)
    assert (cost.submitted_ns, cost.first_run_ns, cost.finished_ns) == (2, 3, 8)
    assert (cost.queue_ns, cost.waited_ns, cost.first_token_ns) == (1, 2, 4)
    assert (cost.ttft_ns, cost.total_ns) == (2, 6)


def test_a_job_that_never_ran_queued_all_its_life() -> None:
    script = Script()
    script.says(submitted("a"), submitted("b"), stalled("b"), drained("b"), cancelled("b"))
    cost = script.finishes[0].cost
    assert (cost.queue_ns, cost.waited_ns, cost.first_run_ns, cost.ttft_ns) == (3, 2, None, None)
    assert cost.slices == 0


def test_a_lane_kept_across_runs_stays_in_one_slice() -> None:
    script = Script(n_lanes=2, policy="fifo")
    script.says(submitted("a"), submitted("b"), done(did("a")), done(did("a"), did("b")))
    script.says(done(did("a", 9), did("b", 9)))
    assert {job.id: job.slices for job in script.kernel.jobs.values()} == {"a": 1, "b": 1}


def test_a_turn_begun_anew_is_another_slice_even_without_leaving_the_lane() -> None:
    script = Script(n_slots=4, n_lanes=2, quantum_tokens=4)
    script.says(*map(submitted, "abc"), done(did("a", 1)))
    script.says(done(did("a", 4), did("b", 4)))  # both used up; c goes in, and a anew
    assert {lane.job for lane in script.kernel.lanes} == {"a", "c"}
    assert script.kernel.jobs[JobId("a")].slices == 2


def test_status_says_who_is_where() -> None:
    script = Script(n_slots=4, n_lanes=1, quantum_tokens=4)
    script.says(*map(submitted, "abcde"))
    script.says(paused("d"), stalled("e"), cancelled("a"))
    kernel = script.kernel
    assert kernel.counts == {
        JobState.READY: 2,
        JobState.RUNNING: 0,
        JobState.STALLED: 1,
        JobState.PAUSED: 1,
        JobState.DELAYED: 0,
        JobState.CANCELLING: 1,
    }
    assert [kernel.position(JobId(job)) for job in "abcdex"] == [None, 1, 2, None, None, None]
    assert kernel.waited_ns(JobId("b"), now_ns=12) == 10
    assert kernel.waited_ns(JobId("d"), now_ns=99) == 2
    assert (kernel.n_slots, kernel.n_lanes, kernel.policy, kernel.quantum_tokens) == (4, 1, "rr", 4)
    assert script.slots() == "A..."


def test_the_counters_count() -> None:
    script = Script(n_slots=1, quantum_tokens=4)
    script.says(submitted("a"), submitted("b"), done(did("a", 4)), done(did("b", 4, DONE)))
    counters = script.kernel.counters
    assert (counters.runs, counters.interrupts, counters.moves) == (3, 1, 0)
    assert (counters.saves, counters.loads, counters.parks, counters.slices) == (2, 1, 1, 3)
    assert counters.finished == {DONE: 1}
