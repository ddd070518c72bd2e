"""Mistakes about erasure: what is taken out, what is kept, and what comes back by another door."""

from __future__ import annotations

from functools import partial

from tests.mutations.mutation import SCHEMA, UPSERT, Mutation

_ERASURE = "sql/migrations/*_erasure_of_persons.sql"
_ERASURES = "sql/erasures.py"
_PAGES = "sql/page_erasures.py"

_in_rows = partial(Mutation, tests=("tests/sql/test_erasures.py",))
_in_journal = partial(Mutation, tests=("tests/app/test_erasing.py",))
_in_pages = partial(Mutation, tests=("tests/app/test_removing.py",))

ERASURES = [
    _in_rows(
        "erasure",
        "a stone shrinks",
        _ERASURES,
        "                erased_before = GREATEST(e.erased_before, excluded.erased_before),\n"
        "                erased_at = excluded.erased_at,",
        "                erased_before = excluded.erased_before,\n                erased_at = excluded.erased_at,",
    ),
    _in_rows(
        "erasure",
        "a fraction of a second is cut off",
        _ERASURES,
        "timedelta(seconds=1 if at.microsecond else 0)",
        "timedelta(0)",
    ),
    _in_rows(
        "erasure",
        "what was sent in the very moment is taken too",
        _ERASURE,
        "o.psid = e.psid AND o.sent_at < e.erased_before\n            UNION ALL",
        "o.psid = e.psid AND o.sent_at <= e.erased_before\n            UNION ALL",
    ),
    _in_rows(
        "erasure",
        "what is merged into a stone is stored",
        SCHEMA,
        "    IF stored.is_erased THEN\n",
        "    IF false THEN\n",
    ),
    _in_rows(
        "erasure",
        "reactions stay",
        _ERASURE,
        "    WHERE r.page_id = g.page_id AND r.mid = g.mid;\n\n    -- what holds",
        "    WHERE r.page_id = g.page_id AND r.mid = g.mid AND false;\n\n    -- what holds",
    ),
    _in_rows(
        "erasure",
        "events stay",
        _ERASURE,
        "v.psid = e.psid AND v.occurred_at < e.erased_before\n        RETURNING",
        "v.psid = e.psid AND false\n        RETURNING",
    ),
    _in_rows(
        "erasure",
        "names stay",
        _ERASURE,
        "    DELETE FROM conversation_names AS s\n    USING unnest(conversations) AS n, erasures AS e\n    WHERE ",
        "    DELETE FROM conversation_names AS s\n    USING unnest(conversations) AS n, erasures AS e\n"
        "    WHERE false AND ",
    ),
    _in_rows(
        "erasure",
        "a stone stays with the thread's id",
        _ERASURES,
        "WHERE o.page_id = n.page_id AND o.psid = n.thread_id\n",
        "WHERE o.page_id = n.page_id AND o.psid = n.thread_id AND false\n",
    ),
    _in_rows(
        "erasure",
        "webhooks don't look for stones",
        UPSERT,
        "IF EXISTS (SELECT FROM erasures) AND tells_of_erased(conversations, messages, events) THEN",
        "IF false THEN",
    ),
    _in_rows(
        "erasure",
        "syncs don't look for stones",
        "sql/upsert.py",
        "    if erased:\n        counts -= await enforce",
        "    if False:\n        counts -= await enforce",
    ),
    _in_journal(
        "erasure",
        "raw bodies keep what is refused",
        "sql/refusing.py",
        "    if found:\n",
        "    if False:\n",
    ),
    _in_journal(
        "erasure",
        "the journal is searched by the row's delivery only",
        "app/erasing.py",
        "                changed += await self._rid_day(stone, day)\n",
        "",
    ),
    _in_pages(
        "Page erasure",
        "one that is added again is taken for loaded",
        _PAGES,
        "SET name = NULL, watermark = NULL, last_synced_at = NULL",
        "SET name = NULL",
    ),
    _in_pages(
        "Page erasure",
        "a replay writes what it read before",
        "sql/deliveries.py",
        " AND sha256(d.body) = n.digest",
        "",
    ),
    _in_pages(
        "Page erasure",
        "what waited in the spool comes back",
        "app/webhook/drain.py",
        "if one.received_at <= requested_at}",
        "if False}",
    ),
]
