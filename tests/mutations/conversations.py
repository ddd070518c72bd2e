"""Mistakes in what is about a conversation: receipts, Graph's fields, the last message, threads, events."""

from __future__ import annotations

from functools import partial

from tests.mutations.mutation import SCHEMA, UPSERT, Mutation

_STEPS = "sql/upsert.py"
_THREADS = "sql/upsert_threads.py"
_REKEY = "sql/rekey.py"
_GRAPH = "reconciler/graph/rows.py"
_PROJECTION = "app/webhook/projection.py"

_in_conversations = partial(Mutation, tests=("tests/sql/test_merge_conversations.py",))
_in_threads = partial(Mutation, tests=("tests/sql/test_merge_threads.py",))
_in_events = partial(Mutation, tests=("tests/sql/test_merge_events.py",))

CONVERSATIONS = [
    _in_conversations(
        "receipts",
        "the last read one stands",
        UPSERT,
        "read_watermark = GREATEST(c.read_watermark, excluded.read_watermark),\n",
        "read_watermark = COALESCE(excluded.read_watermark, c.read_watermark),\n",
    ),
    _in_conversations(
        "receipts",
        "one that rises is not written",
        UPSERT,
        "            OR excluded.read_watermark > COALESCE(c.read_watermark, '-infinity')\n            OR (",
        "            OR (",
    ),
    _in_conversations(
        "receipts",
        "in one batch the last stands",
        _STEPS,
        "delivered_watermark=_later(c.delivered_watermark, old.delivered_watermark)",
        "delivered_watermark=c.delivered_watermark",
    ),
    _in_conversations(
        "platform",
        "what was assumed beats what was told",
        UPSERT,
        "platform = LEAST(c.platform, excluded.platform),\n",
        "platform = GREATEST(c.platform, excluded.platform),\n",
    ),
    _in_conversations(
        "Graph's fields",
        "the newest reading before the newest activity",
        _GRAPH,
        "order = [_ms(node.updated_time), _ms(observed_at)]",
        "order = [_ms(observed_at), _ms(node.updated_time)]",
    ),
    _in_conversations(
        "Graph's fields",
        "readings of one activity are not told apart",
        _GRAPH,
        "order = [_ms(node.updated_time), _ms(observed_at)]",
        "order = [_ms(node.updated_time), 0]",
    ),
    _in_conversations(
        "Graph's fields",
        "whatever was read last replaces them",
        UPSERT,
        "graph = merge_fields(c.graph, excluded.graph),\n",
        "graph = excluded.graph,\n",
    ),
    _in_conversations(
        "last message",
        "the oldest",
        UPSERT,
        "ORDER BY m.sent_at DESC, m.mid DESC",
        "ORDER BY m.sent_at, m.mid DESC",
    ),
    _in_conversations(
        "last message",
        "of one time the lesser id",
        UPSERT,
        "ORDER BY m.sent_at DESC, m.mid DESC",
        "ORDER BY m.sent_at DESC, m.mid",
    ),
    _in_conversations(
        "last message",
        "the snippet is not derived again",
        UPSERT,
        "(c.last_message_mid, c.last_message_at, c.last_message_direction, c.snippet)\n"
        "            IS DISTINCT FROM (l.mid, l.sent_at, l.direction, l.snippet)",
        "(c.last_message_mid, c.last_message_at) IS DISTINCT FROM (l.mid, l.sent_at)",
    ),
    _in_conversations(
        "placeholder",
        "it can be the last message",
        UPSERT,
        "AND m.psid = n.psid AND m.sent_at IS NOT NULL\n",
        "AND m.psid = n.psid\n",
    ),
    _in_conversations(
        "placeholder",
        "it is listed",
        "sql/messages.py",
        "AND m.psid = $2 AND m.sent_at IS NOT NULL",
        "AND m.psid = $2",
    ),
    _in_conversations(
        "placeholder",
        "the message that comes is an update",
        SCHEMA,
        "IF stored.seen_batch IS NULL AND r.sent_at IS NOT NULL THEN\n        r.seen_batch := incoming.changed_batch;",
        "IF stored.seen_batch IS NULL AND r.sent_at IS NOT NULL THEN\n        r.seen_batch := 0;",
    ),
    _in_threads(
        "person",
        "the Page may be the person",
        _GRAPH,
        "if person.id and person.id != page_id}",
        "if person.id}",
    ),
    _in_threads(
        "person",
        "from and to are not looked at",
        _GRAPH,
        "for named in (participants, parties):",
        "for named in (participants,):",
    ),
    _in_threads(
        "person",
        "a message of the thread tells nobody",
        _STEPS,
        "moved = await rekey_late(connection, learnt, now=now)",
        "moved = set()",
    ),
    _in_threads(
        "person",
        "a stand-in beats a person",
        SCHEMA,
        "GREATEST(NULLIF(stored.psid, stored.thread_id), NULLIF(incoming.psid, incoming.thread_id))",
        "GREATEST(stored.psid, incoming.psid)",
    ),
    _in_threads(
        "person",
        "a known one is forgotten",
        _THREADS,
        "WHERE excluded.psid <> excluded.thread_id AND (",
        "WHERE (true OR ",
    ),
    _in_threads(
        "person",
        "the first that was named stays",
        _THREADS,
        "AND (t.psid = t.thread_id OR excluded.psid > t.psid)",
        "AND t.psid = t.thread_id",
    ),
    _in_threads(
        "person",
        "what names nobody stays under the thread's id",
        _STEPS,
        "conversations = [c._replace(psid=persons.get((c.page_id, c.psid), c.psid)) for c in conversations]",
        "conversations = list(conversations)",
    ),
    _in_threads(
        "rekey",
        "the alias is not kept",
        _REKEY,
        "UPDATE conversation_threads SET psid = $3",
        "UPDATE conversation_threads SET psid = psid || left($3, 0)",
    ),
    _in_threads(
        "rekey",
        "nothing is moved when the thread names its person",
        _STEPS,
        "        await rekey(connection, page_id, thread_id, psid, now=now)\n",
        "        pass\n",
    ),
    _in_threads(
        "rekey",
        "messages stay",
        _REKEY,
        "moved_from = $2, updated_at = $4 WHERE page_id = $1 AND psid = $2\n",
        "moved_from = $2, updated_at = $4 WHERE page_id = $1 AND psid = $2 AND false\n",
    ),
    _in_threads(
        "rekey",
        "events stay",
        _REKEY,
        "UPDATE conversation_events SET psid = $3, updated_at = $4 WHERE page_id = $1 AND psid = $2\n",
        "UPDATE conversation_events SET psid = $3, updated_at = $4 WHERE page_id = $1 AND psid = $2 AND false\n",
    ),
    _in_threads(
        "rekey",
        "tags are lost",
        _REKEY,
        "        FROM stand_in AS s\n        ON CONFLICT (page_id, psid, tag_id)",
        "        FROM stand_in AS s WHERE false\n        ON CONFLICT (page_id, psid, tag_id)",
    ),
    _in_threads(
        "rekey",
        "what Graph said is lost",
        _REKEY,
        "graph = merge_fields(c.graph, excluded.graph),",
        "graph = c.graph,",
    ),
    _in_threads(
        "rekey",
        "receipts are lost",
        _REKEY,
        "read_watermark = GREATEST(c.read_watermark, excluded.read_watermark),",
        "read_watermark = c.read_watermark,",
    ),
    _in_threads(
        "rekey",
        "the last message is not derived again",
        _STEPS,
        "counts, touched = Counts(), {(page_id, psid) for page_id, _, psid in moves}",
        "counts, touched = Counts(), {(page_id, psid) for page_id, _, psid in moves[:0]}",
    ),
    _in_threads(
        "rekey",
        "moved messages look unchanged",
        _REKEY,
        "UPDATE messages SET psid = $3, moved_from = $2, updated_at = $4 WHERE",
        "UPDATE messages SET psid = $3, moved_from = $2, updated_at = LEAST(updated_at, $4) WHERE",
    ),
    _in_events(
        "event_key",
        "a postback's is its content",
        _PROJECTION,
        'key="postback:" + sha256(identity).hexdigest()',
        "key=None",
    ),
    _in_events(
        "event_key",
        "numbers are no text",
        "sql/json_values.py",
        "return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value",
        "return value",
    ),
    _in_events(
        "events",
        "the last payload stands",
        UPSERT,
        "                payload = merge_fields(e.payload, excluded.payload),\n",
        "                payload = excluded.payload,\n",
    ),
    _in_events(
        "events",
        "a richer payload is not written",
        UPSERT,
        "            OR merge_fields(e.payload, excluded.payload) IS DISTINCT FROM e.payload\n",
        "",
    ),
    _in_events(
        "events",
        "an estimate beats a real time",
        UPSERT,
        "WHEN (excluded.occurred_at_is_estimated, excluded.occurred_at)\n"
        "                        < (e.occurred_at_is_estimated, e.occurred_at) THEN",
        "WHEN excluded.occurred_at < e.occurred_at THEN",
    ),
    _in_events(
        "events",
        "unknown is a kind as good as any",
        SCHEMA,
        """COALESCE(LEAST(NULLIF(a, 'unknown') COLLATE "C", NULLIF(b, 'unknown') COLLATE "C"), 'unknown')""",
        """LEAST(a COLLATE "C", b COLLATE "C")""",
    ),
    _in_events(
        "events",
        "a person named later is not kept",
        UPSERT,
        "                psid = GREATEST(e.psid, excluded.psid),\n",
        "                psid = e.psid,\n",
    ),
    _in_events(
        "events",
        "the envelope that came last stands",
        UPSERT,
        "                via = LEAST(e.via, excluded.via),\n",
        "                via = excluded.via,\n",
    ),
]
