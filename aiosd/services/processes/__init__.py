"""Agents as processes, as plain values: what is asked, what came of it, what was said."""
