"""The tables, version by version: what Database.open() is given.

Rule 1: a migration that was released is never changed; a change is a new one at the end.
Rule 2: no migration uses code of other modules, which go on changing after it.
"""

from __future__ import annotations

from aiosd.services.database import Migration, Transaction

# turns: one row for each turn of a context, written once.  tokens are little-endian int32, parts
# is the JSON of entries.Part, n_bytes what the row counts for in limits.
# parent names the context forked from; that may be deleted first, so it refers to nothing.
_V1 = (
    """
    CREATE TABLE contexts (
        key         INTEGER PRIMARY KEY,
        id          TEXT    NOT NULL UNIQUE,
        uid         INTEGER NOT NULL,
        agent       TEXT    NOT NULL,
        name        TEXT,
        model       TEXT    NOT NULL,
        parent      TEXT,
        created_ms  INTEGER NOT NULL,
        used_ms     INTEGER NOT NULL,
        n_turns     INTEGER NOT NULL DEFAULT 0,
        n_tokens    INTEGER NOT NULL DEFAULT 0,
        n_bytes     INTEGER NOT NULL DEFAULT 0
    ) STRICT
    """,
    """
    CREATE TABLE turns (
        context     INTEGER NOT NULL REFERENCES contexts ON DELETE CASCADE,
        seq         INTEGER NOT NULL,
        n_tokens    INTEGER NOT NULL,
        n_bytes     INTEGER NOT NULL,
        is_open     INTEGER NOT NULL,
        wants_reply INTEGER NOT NULL,
        parts       TEXT    NOT NULL,
        tokens      BLOB    NOT NULL,
        PRIMARY KEY (context, seq),
        CHECK (length(tokens) = 4 * n_tokens)
    ) STRICT
    """,
    # Who has a context or a job here; what they used since they came.
    """
    CREATE TABLE agents (
        uid         INTEGER NOT NULL,
        name        TEXT    NOT NULL,
        since_ms    INTEGER NOT NULL,
        n_tokens    INTEGER NOT NULL,
        PRIMARY KEY (uid, name)
    ) STRICT
    """,
    # Detached jobs.  context is NULL for a job whose context is its own alone.
    """
    CREATE TABLE jobs (
        id          TEXT    PRIMARY KEY,
        context     TEXT,
        uid         INTEGER NOT NULL,
        agent       TEXT    NOT NULL,
        params      TEXT    NOT NULL,
        prompt      BLOB    NOT NULL,
        seed        INTEGER NOT NULL,
        state       TEXT    NOT NULL CHECK (state IN ('running', 'done', 'failed')),
        n_output    INTEGER NOT NULL DEFAULT 0,
        result      TEXT,
        created_ms  INTEGER NOT NULL,
        finished_ms INTEGER,
        n_bytes     INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX jobs_by_end ON jobs (finished_ms)",
    """
    CREATE TABLE job_output (
        job         TEXT    NOT NULL REFERENCES jobs ON DELETE CASCADE,
        start       INTEGER NOT NULL,
        tokens      BLOB    NOT NULL,
        PRIMARY KEY (job, start)
    ) STRICT
    """,
)


# What can be searched.  A document's number is its owner's key * 2**32 plus one that is never used
# again.  embedder 0: no vector yet.  Tables of words are made when a uid's first document comes.
_SEARCH = (
    """
    CREATE TABLE search_owners (
        key         INTEGER PRIMARY KEY,
        kind        TEXT    NOT NULL,
        uid         INTEGER NOT NULL,
        agent       TEXT    NOT NULL,
        n_numbers   INTEGER NOT NULL DEFAULT 0,
        UNIQUE (kind, uid, agent)
    ) STRICT
    """,
    """
    CREATE TABLE search_embedders (
        key         INTEGER PRIMARY KEY,
        fingerprint TEXT    NOT NULL UNIQUE
    ) STRICT
    """,
    """
    CREATE TABLE search_docs (
        doc         INTEGER PRIMARY KEY,
        embedder    INTEGER NOT NULL DEFAULT 0,
        text        TEXT    NOT NULL
    ) STRICT
    """,
    "CREATE INDEX search_docs_by_embedder ON search_docs (embedder, doc)",
    """
    CREATE TABLE search_vectors (
        doc         INTEGER PRIMARY KEY REFERENCES search_docs ON DELETE CASCADE,
        vector      BLOB    NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE search_tags (
        owner       INTEGER NOT NULL,
        tag         TEXT    NOT NULL,
        doc         INTEGER NOT NULL REFERENCES search_docs ON DELETE CASCADE,
        PRIMARY KEY (owner, tag, doc)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX search_tags_by_doc ON search_tags (doc)",
)

_LIMITS = (
    # What agent.limits set; NULL is the default for all.
    """
    CREATE TABLE agent_limits (
        uid               INTEGER NOT NULL,
        name              TEXT    NOT NULL,
        max_jobs          INTEGER,
        tokens_per_minute INTEGER,
        weight            INTEGER,
        memory_bytes      INTEGER,
        storage_bytes     INTEGER,
        PRIMARY KEY (uid, name)
    ) STRICT, WITHOUT ROWID
    """,
)

# Notes.  tags, metadata and keywords are JSON; doc is their number in the search.  memory_usage is
# kept beside them so that a quota needn't count.  Links go both ways, a row for each.
_MEMORY = (
    """
    CREATE TABLE memory_notes (
        id          TEXT    PRIMARY KEY,
        uid         INTEGER NOT NULL,
        agent       TEXT    NOT NULL,
        content     TEXT    NOT NULL,
        tags        TEXT    NOT NULL,
        metadata    TEXT    NOT NULL,
        keywords    TEXT    NOT NULL,
        summary     TEXT    NOT NULL,
        enrichment  TEXT    NOT NULL CHECK (enrichment IN ('none', 'waiting', 'done', 'failed')),
        doc         INTEGER NOT NULL UNIQUE,
        created_ms  INTEGER NOT NULL,
        updated_ms  INTEGER NOT NULL,
        used_ms     INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX memory_notes_by_agent ON memory_notes (uid, agent, id)",
    "CREATE INDEX memory_notes_waiting ON memory_notes (id) WHERE enrichment = 'waiting'",
    """
    CREATE TABLE memory_links (
        note        TEXT    NOT NULL REFERENCES memory_notes ON DELETE CASCADE,
        other       TEXT    NOT NULL REFERENCES memory_notes ON DELETE CASCADE,
        PRIMARY KEY (note, other)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX memory_links_by_other ON memory_links (other)",
    """
    CREATE TABLE memory_usage (
        uid         INTEGER NOT NULL,
        agent       TEXT    NOT NULL,
        n_notes     INTEGER NOT NULL,
        n_bytes     INTEGER NOT NULL,
        PRIMARY KEY (uid, agent)
    ) STRICT, WITHOUT ROWID
    """,
)

# Who may do what, as access.* has set it.  A right that is_held = 0 was taken away.
_ACCESS = (
    """
    CREATE TABLE access_groups (
        uid         INTEGER NOT NULL,
        name        TEXT    NOT NULL,
        mode        TEXT    NOT NULL CHECK (mode IN ('none', 'read', 'write')),
        rights      TEXT    NOT NULL,
        members     TEXT    NOT NULL,
        PRIMARY KEY (uid, name)
    ) STRICT
    """,
    """
    CREATE TABLE access_rights (
        uid         INTEGER NOT NULL,
        agent       TEXT    NOT NULL,
        name        TEXT    NOT NULL,
        is_held     INTEGER NOT NULL,
        expires_ms  INTEGER,
        PRIMARY KEY (uid, agent, name)
    ) STRICT
    """,
    """
    CREATE TABLE access_grants (
        id          TEXT    PRIMARY KEY,
        uid         INTEGER NOT NULL,
        owner       TEXT    NOT NULL,
        holder      TEXT    NOT NULL,
        kind        TEXT    NOT NULL,
        name        TEXT    NOT NULL,
        mode        TEXT    NOT NULL CHECK (mode IN ('read', 'write')),
        expires_ms  INTEGER
    ) STRICT
    """,
    # What was approved for good: owner_uid and owner are NULL for what is nobody's.
    """
    CREATE TABLE access_rules (
        id          TEXT    PRIMARY KEY,
        uid         INTEGER NOT NULL,
        agent       TEXT    NOT NULL,
        act         TEXT    NOT NULL,
        kind        TEXT    NOT NULL,
        owner_uid   INTEGER,
        owner       TEXT,
        name        TEXT    NOT NULL
    ) STRICT
    """,
    # What waits for a person: a row that a restart finds is a refusal.
    """
    CREATE TABLE access_requests (
        id          TEXT    PRIMARY KEY,
        uid         INTEGER NOT NULL,
        agent       TEXT    NOT NULL,
        act         TEXT    NOT NULL,
        kind        TEXT    NOT NULL,
        owner_uid   INTEGER,
        owner       TEXT,
        name        TEXT    NOT NULL
    ) STRICT
    """,
    # Each row's hash covers the row and the hash of the one before.  anchor: the last one let go.
    """
    CREATE TABLE audit (
        seq         INTEGER PRIMARY KEY,
        time_ms     INTEGER NOT NULL,
        last_ms     INTEGER NOT NULL,
        n           INTEGER NOT NULL,
        event       TEXT    NOT NULL,
        uid         INTEGER NOT NULL,
        agent       TEXT    NOT NULL,
        act         TEXT    NOT NULL,
        kind        TEXT    NOT NULL,
        owner_uid   INTEGER,
        owner       TEXT,
        name        TEXT    NOT NULL,
        decided_by  TEXT    NOT NULL,
        hash        BLOB    NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE audit_chain (
        one         INTEGER PRIMARY KEY CHECK (one = 1),
        anchor_seq  INTEGER NOT NULL,
        anchor_hash BLOB    NOT NULL,
        head_seq    INTEGER NOT NULL,
        head_hash   BLOB    NOT NULL
    ) STRICT
    """,
    "INSERT INTO audit_chain VALUES (1, 0, zeroblob(32), 0, zeroblob(32))",
)


# Files of agents (services/storage).  storage_files has a row per path that has or had a file;
# is_old marks history: every version but a live file's current one.  pending is what a killed
# daemon has to finish with the visible files; indexed is the version that search knows.
_STORAGE = (
    """
    CREATE TABLE storage_roots (
        key             INTEGER PRIMARY KEY,
        uid             INTEGER NOT NULL,
        agent           TEXT    NOT NULL,
        n_files         INTEGER NOT NULL DEFAULT 0,
        n_bytes         INTEGER NOT NULL DEFAULT 0,
        n_history_bytes INTEGER NOT NULL DEFAULT 0,
        pending         TEXT,
        UNIQUE (uid, agent)
    ) STRICT
    """,
    """
    CREATE TABLE storage_files (
        key             INTEGER PRIMARY KEY AUTOINCREMENT,
        root            INTEGER NOT NULL REFERENCES storage_roots,
        path            TEXT    NOT NULL,
        version         INTEGER NOT NULL,
        sha256          TEXT,
        size            INTEGER NOT NULL,
        stamp           TEXT    NOT NULL,
        token           TEXT    NOT NULL,
        modified_ms     INTEGER NOT NULL,
        created_ms      INTEGER NOT NULL,
        indexed         INTEGER NOT NULL DEFAULT 0,
        UNIQUE (root, path)
    ) STRICT
    """,
    "CREATE INDEX storage_to_index ON storage_files (key) WHERE indexed != version",
    """
    CREATE TABLE storage_versions (
        root            INTEGER NOT NULL REFERENCES storage_roots,
        file            INTEGER NOT NULL REFERENCES storage_files ON DELETE CASCADE,
        version         INTEGER NOT NULL,
        sha256          TEXT,
        size            INTEGER NOT NULL,
        created_ms      INTEGER NOT NULL,
        op              TEXT    NOT NULL,
        by              TEXT    NOT NULL,
        is_old          INTEGER NOT NULL,
        PRIMARY KEY (file, version)
    ) STRICT
    """,
    "CREATE INDEX storage_versions_by_hash ON storage_versions (sha256)",
    # The parts of a text file that can be searched; a file may be gone before its chunks are.
    """
    CREATE TABLE storage_chunks (
        doc             INTEGER PRIMARY KEY,
        root            INTEGER NOT NULL,
        file            INTEGER NOT NULL,
        version         INTEGER NOT NULL,
        start           INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX storage_chunks_by_file ON storage_chunks (file)",
    "CREATE INDEX storage_chunks_by_root ON storage_chunks (root, file)",
    "CREATE INDEX storage_history ON storage_versions (root, created_ms) WHERE is_old",
    """
    CREATE TABLE storage_dirs (
        root            INTEGER NOT NULL REFERENCES storage_roots,
        path            TEXT    NOT NULL,
        PRIMARY KEY (root, path)
    ) STRICT, WITHOUT ROWID
    """,
)

# Agents' processes that are started again when the daemon is (services/processes).
_PROCESSES = (
    """
    CREATE TABLE processes (
        id              TEXT    PRIMARY KEY,
        uid             INTEGER NOT NULL,
        agent           TEXT    NOT NULL,
        spec            TEXT    NOT NULL,
        created_ms      INTEGER NOT NULL
    ) STRICT
    """,
)

_AUDIT_INDEX = ("CREATE INDEX audit_by_uid ON audit (uid)",)  # in the order of seq, the rowid

# Messages that wait, by the mailbox they are in; who sent which key lately; what mailboxes hold,
# and under the name '' all of a uid together.
_MAILBOXES = (
    """
    CREATE TABLE messages (
        seq             INTEGER PRIMARY KEY AUTOINCREMENT,
        id              TEXT    NOT NULL UNIQUE,
        uid             INTEGER NOT NULL,
        agent           TEXT    NOT NULL,
        sender          TEXT    NOT NULL,
        body            BLOB    NOT NULL,
        n_bytes         INTEGER NOT NULL,
        sent_ms         INTEGER NOT NULL,
        n_deliveries    INTEGER NOT NULL DEFAULT 0
    ) STRICT
    """,
    "CREATE INDEX messages_by_mailbox ON messages (uid, agent, seq)",
    "CREATE INDEX messages_by_age ON messages (sent_ms)",
    """
    CREATE TABLE message_keys (
        seq             INTEGER PRIMARY KEY AUTOINCREMENT,
        uid             INTEGER NOT NULL,
        agent           TEXT    NOT NULL,
        sender          TEXT    NOT NULL,
        key             TEXT    NOT NULL,
        message         TEXT    NOT NULL,
        sent_ms         INTEGER NOT NULL,
        UNIQUE (uid, agent, sender, key)
    ) STRICT
    """,
    "CREATE INDEX message_keys_by_mailbox ON message_keys (uid, agent, seq)",
    "CREATE INDEX message_keys_by_age ON message_keys (sent_ms)",
    """
    CREATE TABLE mailboxes (
        uid             INTEGER NOT NULL,
        agent           TEXT    NOT NULL,
        n_messages      INTEGER NOT NULL,
        n_bytes         INTEGER NOT NULL,
        PRIMARY KEY (uid, agent)
    ) STRICT, WITHOUT ROWID
    """,
)


def _all_of(statements: tuple[str, ...]) -> Migration:
    def migrate(transaction: Transaction) -> None:
        for statement in statements:
            transaction.execute(statement)

    return migrate


MIGRATIONS: tuple[Migration, ...] = (
    _all_of(_V1),
    _all_of(_SEARCH),
    _all_of(_LIMITS),
    _all_of(_MEMORY),
    _all_of(_ACCESS),
    _all_of(_STORAGE),
    _all_of(_AUDIT_INDEX),
    _all_of(_MAILBOXES),
    _all_of(_PROCESSES),
)
