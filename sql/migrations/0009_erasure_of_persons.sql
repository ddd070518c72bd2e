-- Erasure: a person's conversation with a Page is gone, and what was sent up to then is refused whenever it comes again.
--
-- The stone is what makes that so at every door, in any order of arrival: whoever writes looks for it once the
-- conversation's row is locked, and takes out what it covers in the same transaction, after all is merged. Times are
-- compared with a whole second, as Graph tells no others: a message is covered or it is not, whichever door shows it.
CREATE TABLE erasures (
    page_id text COLLATE "C" NOT NULL CHECK (page_id <> ''),
    psid text COLLATE "C" NOT NULL CHECK (psid <> ''), -- the thread's id while Graph has not shown the person
    erased_before timestamptz NOT NULL CHECK (extract(microseconds FROM erased_before)::integer % 1000000 = 0),
    erased_at timestamptz NOT NULL, -- our clock, when it was last asked for
    requested_by text NOT NULL CHECK (requested_by IN ('api', 'cli', 'facebook')),
    -- the journal's days up to this one are rid of them; NULL until the first is. What comes later is refused
    journal_day date,
    journal_done_at timestamptz, -- NULL until all days are
    claimed_until timestamptz, -- while a process sees to the journal; NULL before
    PRIMARY KEY (page_id, psid)
); -- grows with a Page's traffic
CREATE INDEX erasures_open ON erasures (erased_at) WHERE journal_done_at IS NULL;

-- what there is to look through when somebody is erased, besides what has a time
CREATE INDEX messages_of_unknown_time ON messages (page_id, psid, mid) WHERE sent_at_rank >= 2 AND NOT is_erased;
CREATE INDEX conversation_events_of_nobody ON conversation_events (page_id, mid)
WHERE psid IS NULL AND mid IS NOT NULL;

CREATE TYPE message_key AS (page_id text COLLATE "C", mid text COLLATE "C");

-- Which of these conversations are erased persons'.
CREATE FUNCTION erased_among(conversations conversation_key[]) RETURNS conversation_key[] LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (
        SELECT array_agg(DISTINCT ROW(e.page_id, e.psid)::conversation_key)
        FROM unnest(conversations) AS n
        JOIN erasures AS e ON e.page_id = n.page_id AND e.psid = n.psid
    );
END
$$;

-- Whether rows tell of an erased person, or, without naming one, of an erased message.
CREATE FUNCTION tells_of_erased(conversations conversation_row[], messages message_row[], events event_row[])
RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM unnest(conversations) AS n
        JOIN erasures AS e ON e.page_id = n.page_id AND e.psid = n.psid
    ) OR EXISTS (
        SELECT FROM unnest(messages) AS n
        JOIN messages AS m ON m.page_id = n.page_id AND m.mid = n.mid
        WHERE n.psid IS NULL AND m.is_erased
    ) OR EXISTS (
        SELECT FROM unnest(events) AS n
        JOIN messages AS m ON m.page_id = n.page_id AND m.mid = n.mid
        WHERE n.psid IS NULL AND m.is_erased
    );
END
$$;

-- Take out events that name nobody and are about erased messages.
CREATE FUNCTION delete_events_about_erased(
    about message_key[], this_batch bigint, OUT inserted integer, OUT updated integer
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    changed change_row[];
BEGIN
    WITH gone AS (
        DELETE FROM conversation_events AS e
        USING unnest(about) AS n, messages AS m
        WHERE m.page_id = n.page_id AND m.mid = n.mid AND m.is_erased
        AND e.page_id = n.page_id AND e.mid = n.mid AND e.psid IS NULL
        RETURNING e.page_id, e.event_key, e.seen_batch
    )
    SELECT
        count(*) FILTER (WHERE g.seen_batch = this_batch), count(*) FILTER (WHERE g.seen_batch <> this_batch),
        array_agg(ROW('event', g.page_id, g.event_key, NULL)::change_row)
    INTO inserted, updated, changed
    FROM gone AS g;
    PERFORM note_changes(changed);
END
$$;

-- Take out of conversations what was sent before their persons were erased. Their rows are locked by now.
--
-- Tells how many of the messages and events taken out this batch had just inserted or changed.
CREATE FUNCTION enforce_erasures(
    conversations conversation_key[], this_batch bigint, at timestamptz,
    OUT inserted integer, OUT updated integer
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    gone message_key[];
    of_events integer;
    changed change_row[];
    and_these change_row[];
BEGIN
    -- locked in the order in which all others lock messages
    WITH covered AS (
        SELECT m.page_id, m.mid, m.sent_at, m.seen_batch, m.changed_batch
        FROM unnest(conversations) AS n
        JOIN erasures AS e ON e.page_id = n.page_id AND e.psid = n.psid
        CROSS JOIN LATERAL (
            SELECT o.mid FROM messages AS o
            WHERE o.page_id = e.page_id AND o.psid = e.psid AND o.sent_at < e.erased_before
            UNION ALL
            -- when it was sent nobody told, but something was done to it before then, so it was sent before then
            SELECT o.mid FROM messages AS o
            WHERE o.page_id = e.page_id AND o.psid = e.psid AND o.sent_at_rank >= 2 AND NOT o.is_erased
            AND (o.sent_at >= e.erased_before OR o.sent_at IS NULL)
            AND (
                o.deleted_at < e.erased_before
                OR EXISTS (
                    SELECT FROM jsonb_each(o.edits) AS x (key, value)
                    WHERE abs((x.value ->> 0)::bigint) < extract(epoch FROM e.erased_before) * 1000
                )
                OR EXISTS (
                    SELECT FROM message_reactions AS r
                    WHERE r.page_id = o.page_id AND r.mid = o.mid AND r.reacted_at < e.erased_before
                )
            )
        ) AS old
        JOIN messages AS m ON m.page_id = e.page_id AND m.mid = old.mid
        ORDER BY m.page_id, m.mid
        FOR NO KEY UPDATE OF m
    )
    SELECT
        array_agg(ROW(c.page_id, c.mid)::message_key),
        count(*) FILTER (WHERE c.seen_batch = this_batch AND c.changed_batch = this_batch),
        count(*) FILTER (WHERE c.seen_batch <> this_batch AND c.changed_batch = this_batch)
    INTO gone, inserted, updated
    FROM covered AS c;
    SELECT array_agg(ROW('message', m.page_id, m.mid, m.psid)::change_row) INTO changed
    FROM unnest(gone) AS g JOIN messages AS m ON m.page_id = g.page_id AND m.mid = g.mid
    WHERE m.sent_at IS NOT NULL;

    UPDATE messages AS m SET
        is_erased = true,
        direction = NULL,
        sent_at = NULL, sent_at_rank = 9, seen_batch = NULL,
        deleted_at = NULL, deleted_at_is_estimated = false,
        original = NULL, edits = NULL, graph = NULL, links = NULL,
        webhook_seen_at = NULL, sync_seen_at = NULL, delivery_day = NULL, delivery_id = NULL,
        absent_since = NULL, missing_in_graph_since = NULL,
        changed_batch = this_batch, updated_at = at
    FROM unnest(gone) AS g
    WHERE m.page_id = g.page_id AND m.mid = g.mid;
    DELETE FROM message_reactions AS r
    USING unnest(gone) AS g
    WHERE r.page_id = g.page_id AND r.mid = g.mid;

    -- what holds a place for nothing, or for what has no time at all
    DELETE FROM messages AS m
    USING unnest(conversations) AS n, erasures AS e
    WHERE e.page_id = n.page_id AND e.psid = n.psid
    AND m.page_id = e.page_id AND m.psid = e.psid AND m.sent_at_rank >= 2 AND NOT m.is_erased
    AND m.sent_at IS NULL AND m.deleted_at IS NULL AND m.edits IS NULL
    AND NOT EXISTS (SELECT FROM message_reactions AS r WHERE r.page_id = m.page_id AND r.mid = m.mid);

    WITH events AS (
        DELETE FROM conversation_events AS v
        USING unnest(conversations) AS n, erasures AS e
        WHERE e.page_id = n.page_id AND e.psid = n.psid
        AND v.page_id = e.page_id AND v.psid = e.psid AND v.occurred_at < e.erased_before
        RETURNING v.page_id, v.event_key, v.psid, v.seen_batch
    )
    SELECT
        count(*) FILTER (WHERE v.seen_batch = this_batch),
        array_agg(ROW('event', v.page_id, v.event_key, v.psid)::change_row)
    INTO of_events, and_these
    FROM events AS v;
    changed := changed || and_these;
    inserted := inserted + of_events;
    PERFORM delete_events_about_erased(gone, this_batch);

    WITH kept AS (
        UPDATE conversations AS c SET
            graph = k.graph,
            delivered_watermark = k.delivered_watermark,
            read_watermark = k.read_watermark,
            created_at = k.created_at,
            updated_at = at
        FROM unnest(conversations) AS n
        JOIN erasures AS e ON e.page_id = n.page_id AND e.psid = n.psid
        JOIN conversations AS o ON o.page_id = e.page_id AND o.psid = e.psid
        CROSS JOIN LATERAL (
            SELECT
                (
                    SELECT jsonb_object_agg(f.key, f.value) FROM jsonb_each(o.graph) AS f (key, value)
                    WHERE (f.value ->> 0)::bigint >= extract(epoch FROM e.erased_before) * 1000
                ) AS graph,
                CASE WHEN o.delivered_watermark >= e.erased_before THEN o.delivered_watermark END AS delivered_watermark,
                CASE WHEN o.read_watermark >= e.erased_before THEN o.read_watermark END AS read_watermark,
                GREATEST(o.created_at, e.erased_before) AS created_at
        ) AS k
        WHERE c.page_id = o.page_id AND c.psid = o.psid
        AND (o.graph, o.delivered_watermark, o.read_watermark, o.created_at)
            IS DISTINCT FROM (k.graph, k.delivered_watermark, k.read_watermark, k.created_at)
        RETURNING c.page_id, c.psid
    )
    SELECT array_agg(ROW('conversation', c.page_id, c.psid, c.psid)::change_row) INTO and_these FROM kept AS c;
    changed := changed || and_these;
    DELETE FROM conversation_names AS s
    USING unnest(conversations) AS n, erasures AS e
    WHERE e.page_id = n.page_id AND e.psid = n.psid AND s.page_id = e.page_id AND s.psid = e.psid
    AND NOT EXISTS (
        SELECT FROM conversations AS c WHERE c.page_id = s.page_id AND c.psid = s.psid AND c.name = s.name
    );
    changed := changed || derive_last_messages(conversations, at);
    WITH empty AS (
        DELETE FROM conversations AS c
        USING unnest(conversations) AS n, erasures AS e
        WHERE e.page_id = n.page_id AND e.psid = n.psid AND c.page_id = e.page_id AND c.psid = e.psid
        AND c.graph IS NULL AND c.delivered_watermark IS NULL AND c.read_watermark IS NULL
        AND NOT EXISTS (
            SELECT FROM messages AS m WHERE m.page_id = c.page_id AND m.psid = c.psid AND NOT m.is_erased
        )
        AND NOT EXISTS (SELECT FROM conversation_events AS v WHERE v.page_id = c.page_id AND v.psid = c.psid)
        RETURNING c.page_id, c.psid
    ),
    untagged AS (
        DELETE FROM conversation_tags AS t USING empty AS o WHERE t.page_id = o.page_id AND t.psid = o.psid
    )
    SELECT array_agg(ROW('conversation', c.page_id, c.psid, c.psid)::change_row) INTO and_these FROM empty AS c;
    PERFORM note_changes(changed || and_these);
END
$$;
