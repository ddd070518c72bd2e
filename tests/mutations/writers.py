"""Mistakes in how it is written: counts, provenance, chunks, and the order in which locks are taken."""

from __future__ import annotations

from functools import partial

from tests.mutations.mutation import SCHEMA, UPSERT, Mutation

_STEPS = "sql/upsert.py"
_MESSAGES = "sql/upsert_messages.py"
_BATCHES = "sql/batches.py"
_REKEY = "sql/rekey.py"

_in_upsert = partial(Mutation, tests=("tests/sql/test_upsert.py",))
_in_messages = partial(Mutation, tests=("tests/sql/test_merge_messages.py",))
_in_two_writers = partial(Mutation, tests=("tests/sql/test_two_writers.py", "tests/sql/test_confluence.py"))

WRITERS = [
    _in_upsert(
        "unchanged",
        "what changes nothing is written",
        UPSERT,
        "WHERE merge_message(m, excluded) IS DISTINCT FROM m\n",
        "WHERE true\n",
    ),
    _in_upsert(
        "unchanged",
        "which door said it is a change",
        SCHEMA,
        "OR reads_differently(stored.original, stored.edits, stored.graph, r.original, r.edits, r.graph) THEN",
        "OR (stored.original, stored.edits, stored.graph) IS DISTINCT FROM (r.original, r.edits, r.graph) THEN",
    ),
    _in_upsert(
        "counts",
        "what is only referred to is unchanged",
        _MESSAGES,
        "for m in rows if m.sent_at is not None or m.edits or m.deleted_at})",
        "for m in rows})",
    ),
    _in_upsert(
        "provenance",
        "the last receipt is kept",
        SCHEMA,
        "r.webhook_seen_at := LEAST(stored.webhook_seen_at, incoming.webhook_seen_at);",
        "r.webhook_seen_at := COALESCE(incoming.webhook_seen_at, stored.webhook_seen_at);",
    ),
    _in_upsert(
        "provenance",
        "the door that wrote first is first",
        SCHEMA,
        "WHEN sync_seen_at IS NULL OR webhook_seen_at <= sync_seen_at THEN 'webhook'",
        "WHEN webhook_seen_at IS NOT NULL THEN 'webhook'",
    ),
    _in_upsert(
        "provenance",
        "the last delivery is kept",
        SCHEMA,
        "IF stored.delivery_id IS NULL THEN\n",
        "IF incoming.delivery_id IS NOT NULL THEN\n",
    ),
    _in_messages(
        "joining",
        "of two texts one is dropped unseen",
        _MESSAGES,
        "        if of_a not in (unset, of_b) and of_b != unset:\n            return None\n",
        "",
    ),
    _in_upsert(
        "joining",
        "a message and its placeholder are two statements",
        _MESSAGES,
        "numbered(folded(rows), first_two",
        "numbered(rows, first_two",
    ),
    _in_upsert(
        "chunks",
        "sorted after they are cut",
        _BATCHES,
        "    rest = sorted(rows, key=key)\n",
        "    rest = [row for part in chunks(list(rows), size) for row in sorted(part, key=key)]\n",
    ),
    _in_upsert(
        "chunks",
        "too large",
        _BATCHES,
        "ROWS_PER_STATEMENT = 500",
        "ROWS_PER_STATEMENT = 501",
    ),
    _in_upsert(
        "chunks",
        "a key twice in a statement",
        _BATCHES,
        "                next_pass.append(row)\n",
        "                this_pass.append(row)\n",
    ),
    _in_upsert(
        "escape",
        "lone surrogates and NUL pass",
        "sql/json_values.py",
        'return _REFUSED.sub(lambda m: f"{_ESCAPE}{ord(m[0]):04x}", text) if _REFUSED.search(text) else text',
        "return text",
    ),
    _in_upsert(
        "locks",
        "writers take keys in the order they came in",
        _BATCHES,
        "    rest = sorted(rows, key=key)\n",
        "    rest = list(rows)\n",
    ),
    _in_two_writers(
        "locks",
        "a late one is waited for",
        _REKEY,
        "FOR NO KEY UPDATE OF t NOWAIT",
        "FOR NO KEY UPDATE OF t",
    ),
    _in_two_writers(
        "locks",
        "a late conversation is waited for",
        _REKEY,
        "AND psid IN ($2, $3) FOR UPDATE NOWAIT",
        "AND psid IN ($2, $3) FOR UPDATE",
    ),
    _in_two_writers(
        "locks",
        "a move takes messages in an order of its own",
        _REKEY,
        "ORDER BY m.mid FOR NO KEY UPDATE",
        "ORDER BY m.sent_at DESC FOR NO KEY UPDATE",
    ),
    _in_two_writers(
        "locks",
        "the last message is derived without a lock",
        _STEPS,
        "        await _lock_late(connection, not_locked)\n",
        "        pass\n",
    ),
    _in_two_writers(
        "locks",
        "conversations are not locked before their messages",
        _STEPS,
        "    others = {(m.page_id, m.psid) for m in messages}\n",
        "    others: set[tuple[str, str | None]] = set()\n",
    ),
    _in_two_writers(
        "locks",
        "the conversation that a thread's goes to is locked later than the others",
        _STEPS,
        "    others.update((page_id, psid) for page_id, _, psid in moves)\n",
        "",
    ),
]
