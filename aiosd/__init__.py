"""aiosd: an operating system for LLM agents.  ARCHITECTURE.md is the map."""

__version__: str


def __getattr__(name: str) -> str:
    """The version, once it is asked for: each tool's process imports this, and metadata is slow."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import version  # noqa: PLC0415 - as said

    return version("aiosd")
