"""Storage: real files of agents, each write a version, under the state directory.

`paths` says what a path may be, `confined` reaches it without leaving the root, `visible` is what
people see, `blobs` what versions hold; `rows` and `changes` are the database's part.  `reading`
looks, `outside` takes note of what people did, `files` does the acts in their order, `ledger`
writes them down, `recovery` mends what a killed daemon left.  `store` carries it all out in threads
of its own; `chunks` and `index` let text files be searched.
"""
