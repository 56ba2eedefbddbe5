"""Shell completion.  `completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from aiosctl import render
from aiosctl.commands import Command


@click.command(
    cls=Command,
    examples=(
        (
            "bash, for good",
            "aiosctl completion bash > ~/.local/share/bash-completion/completions/aiosctl",
        ),
        ("zsh, in ~/.zshrc", 'eval "$(aiosctl completion zsh)"'),
        ("fish, for good", "aiosctl completion fish > ~/.config/fish/completions/aiosctl.fish"),
    ),
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the script that completes aiosctl in your shell: commands, options, and live ids."""
    completer = get_completion_class(shell)
    if completer is None:
        raise click.UsageError(f"no completion for {shell}")
    root = click.get_current_context().find_root().command
    render.verbatim(completer(root, {}, "aiosctl", "_AIOSCTL_COMPLETE").source())
