"""Storage: real files of agents, each write a version, under the state directory.

`paths` says what a path may be, `confined` reaches it without leaving the root, `blobs` keeps
contents, `rows` is the database's part, `files` does the acts in their order, `recovery` mends what
a killed daemon left, `store` carries it all out in threads of its own.
"""
