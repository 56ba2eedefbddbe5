"""The scheduler, pure: events in, actions out, no clock, no I/O, nothing of ours imported.

In reading order: model.py (the nouns), events.py (what happens and what to do), policy.py (who is
next), jobs.py (the jobs by state), placement.py (which slots are worth what), residency.py (which
context is in which slot), kernel.py (the state machine that ties them), replay.py (the journal).
"""
