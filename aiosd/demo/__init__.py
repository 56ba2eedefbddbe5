"""The show behind `make demo`: eight agents share one small model, under two schedulers.

Reading order: __main__.py the programme, daemon.py a daemon of one's own, agents.py what the
agents do, board.py what is known about them, show.py how it looks.
Rule: everything about the daemon is learnt through aios_sdk, as any program would.
"""
