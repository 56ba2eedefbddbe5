"""Which context was forked from which: from a list of contexts to the lines of a tree.  Pure.

Rule: every context of the list is there once, and a parent that isn't in it stands where it would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiosctl import units
from aiosctl.render import Branch

Context = Mapping[str, Any]


def absent_parents(contexts: Iterable[Context]) -> list[str]:
    """The parents that are not in the list themselves, each once."""
    contexts = list(contexts)
    known = {one["context"] for one in contexts}
    parents = dict.fromkeys(one["parent"] for one in contexts if one.get("parent") is not None)
    return [parent for parent in parents if parent not in known]


def branches(contexts: Sequence[Context], others: Iterable[Context] = ()) -> list[Branch]:
    """The tree, each context after its parent and before its younger siblings.

    others: contexts that the list leaves out, to tell a parent that exists from a deleted one.
    """
    mine = {one["context"]: one for one in contexts}
    agents = {one["context"]: one["agent"] for one in others}
    children: dict[str | None, list[str]] = {None: []}
    for id_, one in mine.items():
        children.setdefault(one.get("parent"), []).append(id_)
    # A deleted parent has no parent that we know: it is a root, before the others' places.
    roots = [*absent_parents(contexts), *children[None]]
    found: list[Branch] = []
    waiting = [(0, id_) for id_ in reversed(roots)]
    while waiting:  # not by recursion: a chain of forks may be longer than the stack
        depth, id_ = waiting.pop()
        if id_ in mine:
            found.append(Branch(depth, id_, _figures(mine[id_])))
        elif id_ in agents:
            found.append(Branch(depth, f"{id_} (of agent {agents[id_]})"))
        else:
            found.append(Branch(depth, f"{id_} (deleted)"))
        waiting += [(depth + 1, child) for child in reversed(children.get(id_, ()))]
    return found


def _figures(one: Context) -> str:
    name = one.get("name")
    figures = f"{one['n_tokens']} tokens, {one['residence']}, used {units.age(one['used_ms'])} ago"
    return figures if name is None else f"{figures}, {name}"
