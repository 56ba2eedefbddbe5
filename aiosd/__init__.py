"""aiosd: an operating system for LLM agents.  ARCHITECTURE.md is the map."""

from importlib.metadata import version

__version__ = version("aiosd")
