-- The bulk upsert, one function a table, and a group of deliveries in one call: between two statements of a client its
-- locks are held and its session waits.
--
-- `sql/upsert.py` says what they do together, and why writers don't deadlock. Rows come sorted by key within their
-- chunk; a chunk goes through its statement alone, and no key stands in it twice.
--
-- A plan is kept as long as its connection, and one made while a table was small would read all of it for ever after:
-- so the functions that look rows up by their keys rule that out.

CREATE TYPE delivery_row AS (
    day date,
    id uuid,
    received_at timestamptz,
    body bytea,
    state text,
    items integer,
    dead_letters text
);

CREATE TYPE conversation_row AS (
    chunk smallint,
    page_id text COLLATE "C",
    psid text COLLATE "C",
    platform text COLLATE "C",
    graph text,
    delivered_watermark timestamptz,
    read_watermark timestamptz
);

CREATE TYPE message_row AS (
    chunk smallint,
    page_id text COLLATE "C",
    mid text COLLATE "C",
    psid text COLLATE "C",
    thread_id text COLLATE "C",
    direction text,
    sent_at timestamptz,
    sent_at_rank smallint,
    deleted_at timestamptz,
    deleted_at_is_estimated boolean,
    original text,
    edits text,
    graph text,
    links text,
    webhook_seen_at timestamptz,
    sync_seen_at timestamptz,
    delivery_day date,
    delivery_id uuid
);

CREATE TYPE reaction_row AS (
    chunk smallint,
    page_id text COLLATE "C",
    mid text COLLATE "C",
    actor text COLLATE "C",
    reaction text,
    emoji text,
    is_removed boolean,
    reacted_at timestamptz,
    reacted_at_is_estimated boolean,
    delivery_day date,
    delivery_id uuid
);

CREATE TYPE event_row AS (
    chunk smallint,
    page_id text COLLATE "C",
    event_key text COLLATE "C",
    psid text COLLATE "C",
    kind text,
    via text,
    mid text COLLATE "C",
    occurred_at timestamptz,
    occurred_at_is_estimated boolean,
    payload text,
    received_at timestamptz,
    delivery_day date,
    delivery_id uuid
);

CREATE TYPE conversation_key AS (page_id text COLLATE "C", psid text COLLATE "C");

-- Whose a thread is, by a message of it.
CREATE TYPE thread_person AS (page_id text COLLATE "C", thread_id text COLLATE "C", psid text COLLATE "C");

-- What a message has become: of those that a statement inserted or changed.
CREATE TYPE stored_message AS (
    page_id text COLLATE "C",
    mid text COLLATE "C",
    psid text COLLATE "C",
    moved_from text COLLATE "C",
    thread_id text COLLATE "C",
    sent_at timestamptz,
    is_inserted boolean,
    is_changed boolean,
    is_deleted boolean,
    has_snapshot boolean
);

CREATE TYPE stored_event AS (
    page_id text COLLATE "C", event_key text COLLATE "C", psid text COLLATE "C", is_inserted boolean
);

-- One key whose readers see something else: 0013 keeps them.
CREATE TYPE change_row AS (kind text, page_id text COLLATE "C", key text COLLATE "C", psid text COLLATE "C");

------------------------------------------------------------------------------------------------------------
-- A function a table.
------------------------------------------------------------------------------------------------------------

-- Append deliveries; one that is there already (by its identity) is left as it is.
CREATE FUNCTION journal_deliveries(incoming delivery_row[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_deliveries (day, id, received_at, body, state, items, dead_letters)
    SELECT n.day, n.id, n.received_at, n.body, n.state, n.items, n.dead_letters::jsonb
    FROM unnest(incoming) AS n
    ON CONFLICT (day, id) DO NOTHING;
END
$$;

-- What readers see of Graph's register of a conversation: not when it was read.
CREATE FUNCTION graph_values(graph jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN (SELECT jsonb_object_agg(f.key, f.value -> 2) FROM jsonb_each(graph) AS f (key, value));
END
$$;

-- Create or lock every conversation of the batch, and raise what rises.
CREATE FUNCTION upsert_conversations(
    incoming conversation_row[], at timestamptz, OUT changed change_row[]
) LANGUAGE plpgsql AS $$
DECLARE
    of_chunk change_row[];
BEGIN
    FOR this_chunk IN 1 .. COALESCE((incoming[cardinality(incoming)]).chunk, 0) LOOP
        WITH s AS (
            INSERT INTO conversations AS c (
                page_id, psid, platform, graph, delivered_watermark, read_watermark, created_at, updated_at
            )
            SELECT n.page_id, n.psid, n.platform, n.graph::jsonb, n.delivered_watermark, n.read_watermark, at, at
            FROM unnest(incoming) AS n
            WHERE n.chunk = this_chunk
            ON CONFLICT (page_id, psid) DO UPDATE SET
                platform = LEAST(c.platform, excluded.platform),
                graph = merge_fields(c.graph, excluded.graph),
                delivered_watermark = GREATEST(c.delivered_watermark, excluded.delivered_watermark),
                read_watermark = GREATEST(c.read_watermark, excluded.read_watermark),
                updated_at = CASE
                    WHEN excluded.platform < c.platform
                        OR excluded.delivered_watermark > COALESCE(c.delivered_watermark, '-infinity')
                        OR excluded.read_watermark > COALESCE(c.read_watermark, '-infinity')
                        OR graph_values(merge_fields(c.graph, excluded.graph)) IS DISTINCT FROM graph_values(c.graph)
                        THEN at
                    ELSE c.updated_at
                END
            WHERE excluded.platform < c.platform
            OR excluded.delivered_watermark > COALESCE(c.delivered_watermark, '-infinity')
            OR excluded.read_watermark > COALESCE(c.read_watermark, '-infinity')
            OR (excluded.graph IS NOT NULL AND merge_fields(c.graph, excluded.graph) IS DISTINCT FROM c.graph)
            RETURNING c.page_id, c.psid, c.updated_at
        )
        SELECT array_agg(ROW('conversation', s.page_id, s.psid, s.psid)::change_row)
        INTO of_chunk
        FROM s WHERE s.updated_at = at;
        changed := changed || of_chunk;
    END LOOP;
    IF EXISTS (SELECT FROM unnest(incoming) AS n WHERE n.graph IS NOT NULL) THEN
        PERFORM derive_names(ARRAY(SELECT ROW(n.page_id, n.psid)::conversation_key FROM unnest(incoming) AS n));
    END IF;
END
$$;

-- Take away the reactions of messages that were unsent, and that audits had found missing: now it is known why. What was
-- unsent is a change as it is.
CREATE FUNCTION conclude_unsends(stored stored_message[]) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    DELETE FROM message_reactions AS r
    USING unnest(stored) AS s
    WHERE s.is_deleted AND r.page_id = s.page_id AND r.mid = s.mid;
    UPDATE messages AS m SET absent_since = NULL, missing_in_graph_since = NULL
    FROM unnest(stored) AS s
    WHERE s.is_deleted AND m.page_id = s.page_id AND m.mid = s.mid AND m.absent_since IS NOT NULL;
END
$$;

-- Let Graph's list of reactions replace what is older than it.
--
-- The messages' rows are locked by now, so their `reactions_observed_at` stands still.
CREATE FUNCTION apply_reaction_snapshots(
    stored stored_message[], at timestamptz, OUT changed change_row[]
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    and_these change_row[];
BEGIN
    WITH gone AS (
        DELETE FROM message_reactions AS r
        USING messages AS m, unnest(stored) AS s
        WHERE s.has_snapshot AND m.page_id = s.page_id AND m.mid = s.mid AND r.page_id = s.page_id AND r.mid = s.mid
        AND (
            r.reacted_at_is_estimated
            OR r.reacted_at < m.reactions_observed_at
            OR (
                r.reacted_at IS NULL
                AND NOT m.graph -> 'reactions' -> 1 @> jsonb_build_array(
                    jsonb_build_array(r.actor, COALESCE(r.reaction, ''), COALESCE(r.emoji, ''))
                )
            )
        )
        RETURNING m.page_id, m.mid, m.psid, m.sent_at, r.is_removed
    )
    SELECT array_agg(ROW('message', g.page_id, g.mid, g.psid)::change_row) INTO changed
    FROM gone AS g WHERE g.sent_at IS NOT NULL AND NOT g.is_removed;
    WITH new AS (
        INSERT INTO message_reactions AS r (page_id, mid, actor, reaction, emoji, is_removed, updated_at)
        SELECT m.page_id, m.mid, g.value ->> 0, NULLIF(g.value ->> 1, ''), NULLIF(g.value ->> 2, ''), false, at
        FROM unnest(stored) AS s
        JOIN messages AS m ON m.page_id = s.page_id AND m.mid = s.mid
        CROSS JOIN LATERAL jsonb_array_elements(m.graph -> 'reactions' -> 1) AS g (value)
        WHERE s.has_snapshot
        ORDER BY m.page_id, m.mid, g.value ->> 0
        ON CONFLICT (page_id, mid, actor) DO NOTHING
        RETURNING r.page_id, r.mid
    )
    SELECT array_agg(ROW('message', n.page_id, n.mid, s.psid)::change_row) INTO and_these
    FROM new AS n JOIN unnest(stored) AS s ON s.page_id = n.page_id AND s.mid = n.mid
    WHERE s.sent_at IS NOT NULL;
    changed := changed || and_these;
END
$$;

-- Merge messages, and what follows from them for their reactions.
--
-- `touched`: the conversations whose last message may have changed; `learnt`: whose a thread is, by a message of it,
-- also where that was known.
CREATE FUNCTION upsert_messages(
    incoming message_row[], batch bigint, at timestamptz,
    OUT inserted integer, OUT updated integer,
    OUT touched conversation_key[], OUT learnt thread_person[], OUT changed change_row[]
) LANGUAGE plpgsql AS $$
DECLARE
    reacted_to change_row[];
    of_chunk stored_message[];
    stored stored_message[];
    any_deleted boolean;
    any_snapshot boolean;
BEGIN
    FOR this_chunk IN 1 .. COALESCE((incoming[cardinality(incoming)]).chunk, 0) LOOP
        WITH s AS (
            INSERT INTO messages AS m (
                page_id, mid, psid, thread_id, direction, sent_at, sent_at_rank, deleted_at, deleted_at_is_estimated,
                original, edits, graph, links, webhook_seen_at, sync_seen_at, delivery_day, delivery_id,
                seen_batch, changed_batch, updated_at
            )
            SELECT
                n.page_id, n.mid, n.psid, n.thread_id, n.direction, n.sent_at, n.sent_at_rank,
                n.deleted_at, n.deleted_at_is_estimated,
                n.original::jsonb, n.edits::jsonb, n.graph::jsonb, n.links::jsonb,
                n.webhook_seen_at, n.sync_seen_at, n.delivery_day, n.delivery_id,
                CASE WHEN n.sent_at IS NOT NULL THEN batch END, batch, at
            FROM unnest(incoming) AS n
            WHERE n.chunk = this_chunk
            ON CONFLICT (page_id, mid) DO UPDATE SET (
                psid, thread_id, direction, sent_at, sent_at_rank, deleted_at, deleted_at_is_estimated,
                original, edits, graph, links, webhook_seen_at, sync_seen_at, delivery_day, delivery_id,
                moved_from, seen_batch, changed_batch, updated_at
            ) = (
                SELECT
                    r.psid, r.thread_id, r.direction, r.sent_at, r.sent_at_rank, r.deleted_at,
                    r.deleted_at_is_estimated, r.original, r.edits, r.graph, r.links, r.webhook_seen_at,
                    r.sync_seen_at, r.delivery_day, r.delivery_id, r.moved_from, r.seen_batch, r.changed_batch,
                    r.updated_at
                FROM merge_message(m, excluded) AS r
            )
            WHERE merge_message(m, excluded) IS DISTINCT FROM m
            RETURNING
                m.page_id, m.mid, m.psid, m.moved_from, m.thread_id, m.sent_at,
                m.seen_batch = batch AS is_inserted, m.changed_batch = batch AS is_changed,
                m.deleted_at IS NOT NULL AS is_deleted, m.graph ? 'reactions' AS has_snapshot
        )
        SELECT array_agg(ROW(s.*)::stored_message), bool_or(s.is_deleted), bool_or(s.has_snapshot)
        INTO of_chunk, any_deleted, any_snapshot
        FROM s;
        IF any_deleted THEN
            PERFORM conclude_unsends(of_chunk);
        END IF;
        IF any_snapshot THEN
            reacted_to := reacted_to || apply_reaction_snapshots(of_chunk, at);
        END IF;
        stored := stored || of_chunk;
    END LOOP;
    SELECT
        count(DISTINCT ROW(s.page_id, s.mid)) FILTER (WHERE s.is_shown AND s.is_inserted),
        count(DISTINCT ROW(s.page_id, s.mid)) FILTER (WHERE s.is_shown)
        - count(DISTINCT ROW(s.page_id, s.mid)) FILTER (WHERE s.is_shown AND s.is_inserted),
        array_agg(DISTINCT ROW(s.page_id, s.psid)::conversation_key) FILTER (WHERE s.is_shown)
        || array_agg(DISTINCT ROW(s.page_id, s.moved_from)::conversation_key) FILTER (
            WHERE s.is_shown AND s.moved_from IS NOT NULL AND s.moved_from IS DISTINCT FROM s.thread_id
        ),
        array_agg(DISTINCT ROW(s.page_id, s.thread_id, s.psid)::thread_person) FILTER (WHERE s.thread_id <> s.psid),
        array_agg(ROW('message', s.page_id, s.mid, s.psid)::change_row) FILTER (WHERE s.is_shown)
    INTO inserted, updated, touched, learnt, changed
    FROM (SELECT n.*, n.is_changed AND n.sent_at IS NOT NULL AS is_shown FROM unnest(stored) AS n) AS s;
    changed := changed || reacted_to;
END
$$;

-- Merge reactions: the newest time wins, then the removal, then the greater emoji.
--
-- Nothing is stored on an unsent or erased message, nor below the time at which Graph's own list was read.
CREATE FUNCTION upsert_reactions(
    incoming reaction_row[], at timestamptz, OUT changed change_row[]
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    of_chunk change_row[];
BEGIN
    FOR this_chunk IN 1 .. COALESCE((incoming[cardinality(incoming)]).chunk, 0) LOOP
        WITH s AS (
            INSERT INTO message_reactions AS r (
                page_id, mid, actor, reaction, emoji, is_removed, reacted_at, reacted_at_is_estimated,
                delivery_day, delivery_id, updated_at
            )
            SELECT
                n.page_id, n.mid, n.actor, n.reaction, n.emoji, n.is_removed, n.reacted_at, n.reacted_at_is_estimated,
                n.delivery_day, n.delivery_id, at
            FROM unnest(incoming) AS n
            JOIN messages AS m ON m.page_id = n.page_id AND m.mid = n.mid
            WHERE n.chunk = this_chunk
            AND m.deleted_at IS NULL AND NOT m.is_erased
            AND (
                m.reactions_observed_at IS NULL
                OR (NOT n.reacted_at_is_estimated AND n.reacted_at >= m.reactions_observed_at)
            )
            ORDER BY n.page_id, n.mid, n.actor
            ON CONFLICT (page_id, mid, actor) DO UPDATE SET
                reaction = excluded.reaction,
                emoji = excluded.emoji,
                is_removed = excluded.is_removed,
                reacted_at = excluded.reacted_at,
                reacted_at_is_estimated = excluded.reacted_at_is_estimated,
                delivery_day = excluded.delivery_day,
                delivery_id = excluded.delivery_id,
                updated_at = excluded.updated_at
            WHERE r.reacted_at IS NULL OR (
                event_clock(excluded.reacted_at, excluded.reacted_at_is_estimated), excluded.is_removed,
                COALESCE(excluded.emoji, '') COLLATE "C", COALESCE(excluded.reaction, '') COLLATE "C"
            ) > (
                event_clock(r.reacted_at, r.reacted_at_is_estimated), r.is_removed,
                COALESCE(r.emoji, '') COLLATE "C", COALESCE(r.reaction, '') COLLATE "C"
            )
            RETURNING r.page_id, r.mid
        )
        SELECT array_agg(ROW('message', m.page_id, m.mid, m.psid)::change_row) INTO of_chunk
        FROM s JOIN messages AS m ON m.page_id = s.page_id AND m.mid = s.mid
        WHERE m.sent_at IS NOT NULL;
        changed := changed || of_chunk;
    END LOOP;
END
$$;

-- Merge events: field by field, present beats absent, ties by the greater value.
CREATE FUNCTION upsert_events(
    incoming event_row[], batch bigint, at timestamptz,
    OUT inserted integer, OUT updated integer, OUT changed change_row[]
) LANGUAGE plpgsql AS $$
DECLARE
    of_chunk stored_event[];
    stored stored_event[];
BEGIN
    FOR this_chunk IN 1 .. COALESCE((incoming[cardinality(incoming)]).chunk, 0) LOOP
        WITH s AS (
            INSERT INTO conversation_events AS e (
                page_id, event_key, psid, kind, via, mid, occurred_at, occurred_at_is_estimated, payload,
                received_at, delivery_day, delivery_id, seen_batch, updated_at
            )
            SELECT
                n.page_id, n.event_key, n.psid, n.kind, n.via, n.mid, n.occurred_at, n.occurred_at_is_estimated,
                n.payload::jsonb, n.received_at, n.delivery_day, n.delivery_id, batch, at
            FROM unnest(incoming) AS n
            WHERE n.chunk = this_chunk
            ON CONFLICT (page_id, event_key) DO UPDATE SET
                psid = GREATEST(e.psid, excluded.psid),
                kind = named_kind(e.kind, excluded.kind),
                via = LEAST(e.via, excluded.via),
                mid = GREATEST(e.mid, excluded.mid),
                occurred_at = CASE
                    WHEN (excluded.occurred_at_is_estimated, excluded.occurred_at)
                        < (e.occurred_at_is_estimated, e.occurred_at) THEN excluded.occurred_at
                    ELSE e.occurred_at
                END,
                occurred_at_is_estimated = e.occurred_at_is_estimated AND excluded.occurred_at_is_estimated,
                payload = merge_fields(e.payload, excluded.payload),
                updated_at = excluded.updated_at
            WHERE (GREATEST(e.psid, excluded.psid), named_kind(e.kind, excluded.kind), LEAST(e.via, excluded.via))
                IS DISTINCT FROM (e.psid, e.kind, e.via)
            OR GREATEST(e.mid, excluded.mid) IS DISTINCT FROM e.mid
            OR (excluded.occurred_at_is_estimated, excluded.occurred_at) < (e.occurred_at_is_estimated, e.occurred_at)
            OR merge_fields(e.payload, excluded.payload) IS DISTINCT FROM e.payload
            RETURNING e.page_id, e.event_key, e.psid, e.seen_batch = batch AS is_inserted
        )
        SELECT array_agg(ROW(s.*)::stored_event) INTO of_chunk FROM s;
        stored := stored || of_chunk;
    END LOOP;
    SELECT
        count(*) FILTER (WHERE k.is_inserted), count(*) FILTER (WHERE NOT k.is_inserted),
        array_agg(ROW('event', k.page_id, k.event_key, k.psid)::change_row)
    INTO inserted, updated, changed
    FROM (
        SELECT s.page_id, s.event_key, max(s.psid) AS psid, bool_or(s.is_inserted) AS is_inserted
        FROM unnest(stored) AS s GROUP BY s.page_id, s.event_key
    ) AS k;
END
$$;

-- Set each conversation's last message afresh: the newest by (sent_at, mid), and with each of its tags the span of time
-- that it lies in. Their rows are locked by now.
CREATE FUNCTION derive_last_messages(
    keys conversation_key[], at timestamptz, OUT changed change_row[]
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_sort = off AS $$
BEGIN
    WITH derived AS (
        UPDATE conversations AS c SET
            last_message_mid = l.mid,
            last_message_at = l.sent_at,
            last_message_direction = l.direction,
            snippet = l.snippet,
            updated_at = at
        FROM (
            SELECT n.page_id, n.psid, newest.*
            FROM unnest(keys) AS n
            LEFT JOIN LATERAL (
                SELECT m.mid, m.sent_at, m.direction, left(m.text, 200) AS snippet
                FROM messages AS m
                WHERE m.page_id = n.page_id AND m.psid = n.psid AND m.sent_at IS NOT NULL
                ORDER BY m.sent_at DESC, m.mid DESC
                LIMIT 1
            ) AS newest ON true
        ) AS l
        WHERE c.page_id = l.page_id AND c.psid = l.psid
        AND (c.last_message_mid, c.last_message_at, c.last_message_direction, c.snippet)
            IS DISTINCT FROM (l.mid, l.sent_at, l.direction, l.snippet)
        RETURNING c.page_id, c.psid, c.last_message_at
    ),
    tagged AS (
        UPDATE conversation_tags AS t SET active_at = span_of(c.last_message_at)
        FROM derived AS c
        WHERE t.page_id = c.page_id AND t.psid = c.psid AND t.active_at IS DISTINCT FROM span_of(c.last_message_at)
    )
    SELECT array_agg(ROW('conversation', c.page_id, c.psid, c.psid)::change_row) INTO changed FROM derived AS c;
END
$$;

------------------------------------------------------------------------------------------------------------
-- A group of deliveries with all their rows: what the webhooks' door writes.
------------------------------------------------------------------------------------------------------------

-- Whether a thread's id still stands in for a person that a message told.
CREATE FUNCTION some_stand_in(learnt thread_person[]) RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM unnest(learnt) AS l
        JOIN conversation_threads AS t ON t.page_id = l.page_id AND t.thread_id = l.thread_id
        WHERE t.psid = t.thread_id
    );
END
$$;

-- Journal deliveries and merge their rows, in the order in which `sql/upsert.py` does it.
--
-- Takes no locks out of that order: where messages turn out to need them (a conversation that nobody named, or one that
-- still stands under its thread's id) it raises MM001 and stores nothing, and the caller goes step by step. So it does,
-- by MM002, where a person was erased of whom the deliveries tell: which is sure only once their messages are locked.
CREATE FUNCTION ingest(
    deliveries delivery_row[],
    conversations conversation_row[],
    messages message_row[],
    reactions reaction_row[],
    events event_row[],
    batch bigint,
    at timestamptz,
    OUT inserted integer,
    OUT updated integer
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    changed change_row[];
    of_messages record;
    of_events record;
BEGIN
    PERFORM journal_deliveries(deliveries);
    changed := upsert_conversations(conversations, at);
    of_messages := upsert_messages(messages, batch, at);
    inserted := of_messages.inserted;
    updated := of_messages.updated;
    IF EXISTS (SELECT FROM erasures) AND tells_of_erased(conversations, messages, events) THEN
        RAISE SQLSTATE 'MM002' USING MESSAGE = 'it tells of somebody who was erased';
    END IF;
    IF (of_messages.learnt IS NOT NULL AND some_stand_in(of_messages.learnt)) OR EXISTS (
        SELECT t.page_id, t.psid FROM unnest(of_messages.touched) AS t
        EXCEPT
        SELECT n.page_id, n.psid FROM unnest(conversations) AS n
    ) THEN
        RAISE SQLSTATE 'MM001' USING MESSAGE = 'conversations have to be locked late';
    END IF;
    IF cardinality(reactions) > 0 THEN
        changed := changed || upsert_reactions(reactions, at);
    END IF;
    IF cardinality(events) > 0 THEN
        of_events := upsert_events(events, batch, at);
        inserted := inserted + of_events.inserted;
        updated := updated + of_events.updated;
        changed := changed || of_events.changed;
    END IF;
    IF of_messages.touched IS NOT NULL THEN
        changed := changed || derive_last_messages(of_messages.touched, at);
    END IF;
    PERFORM note_changes(changed || of_messages.changed);
END
$$;
