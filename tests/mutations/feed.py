"""Mistakes about the feed of changes: what is not noted, and what a reader misses."""

from __future__ import annotations

from functools import partial

from tests.mutations.mutation import UPSERT, Mutation

_FEED = "sql/migrations/*_feed_of_changes.sql"
_AUDITS = "sql/audit_threads.py"

_in_feed = partial(Mutation, tests=("tests/sql/test_changes.py",))
_in_audits = partial(Mutation, tests=("tests/reconciler/test_audit.py",))

FEED = [
    _in_feed(
        "feed",
        "what an older transaction may still come before is read",
        _FEED,
        "(after_xid, after_seq) AND c.xid < below",
        "(after_xid, after_seq)",
    ),
    _in_feed(
        "feed",
        "a conversation's new last message is not told",
        UPSERT,
        "INTO changed FROM derived AS c;",
        "INTO changed FROM derived AS c WHERE false;",
    ),
    _in_feed(
        "feed",
        "a conversation that is only read again is told",
        UPSERT,
        "INTO of_chunk\n        FROM s WHERE s.updated_at = at;",
        "INTO of_chunk\n        FROM s;",
    ),
    _in_feed(
        "feed",
        "a reaction is not told",
        UPSERT,
        "FROM s JOIN messages AS m ON m.page_id = s.page_id AND m.mid = s.mid\n        WHERE m.sent_at IS NOT NULL;",
        "FROM s JOIN messages AS m ON m.page_id = s.page_id AND m.mid = s.mid\n        WHERE false;",
    ),
    _in_feed(
        "feed",
        "tags are not told",
        "sql/tags.py",
        'SELECT count(*), {_noted("k")} FROM new AS k',
        "SELECT count(*) FROM new AS k",
    ),
    _in_feed(
        "feed",
        "an erasure is not told",
        "sql/migrations/*_erasure_of_persons.sql",
        "    PERFORM note_changes(changed || and_these);",
        "    PERFORM note_changes(and_these);",
    ),
    _in_audits(
        "feed",
        "what is missing in Graph is not told",
        _AUDITS,
        "FILTER (WHERE is_changed))",
        "FILTER (WHERE false))",
    ),
    Mutation(
        "feed",
        "what no list shows is not told",
        "sql/audit_unlisted.py",
        "FILTER (WHERE is_changed))",
        "FILTER (WHERE false))",
        tests=("tests/reconciler/test_audit_unlisted.py",),
    ),
    _in_audits(
        "feed",
        "what is listed again is not told",
        _AUDITS,
        "FROM marked AS m WHERE m.updated_at = now()",
        "FROM marked AS m WHERE false",
    ),
]
