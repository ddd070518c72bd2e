-- The mirror: who said what on which Page, what each door knows of it, and the journal behind it.
--
-- Keys are text in the "C" collation: they sort by bytes, alike in every database and alike in the code that
-- sorts them before it locks rows in that order. The lines marked "grows with a Page's traffic" may be turned
-- into PARTITION BY HASH (page_id), or distributed by page_id: page_id is first in every key there.

------------------------------------------------------------------------------------------------------------
-- Rules of merging. A merge is a max over a total order, field by field: it must not matter what came first.
------------------------------------------------------------------------------------------------------------

-- The one rule for every register: per key the greater value wins. Registers are built so that this is right:
--   original  {field: value}                        JSON null is the least of all values: present beats absent
--   edits     {num_edit: [clock, text]}             the newest, then the greater text
--   graph     {field: [observed_ms, value]}         arrays compare element by element: newest observation first
--   links     {unsigned link: [expires_at, link]}   the link that lives longest
-- Not in SQL, like some that follow: such a function starts an executor at every call, or is parsed anew by every
-- statement that it is a part of.
CREATE FUNCTION merge_fields(a jsonb, b jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF a IS NULL THEN
        RETURN b;
    END IF;
    IF b IS NULL OR a = b THEN
        RETURN a;
    END IF;
    RETURN (
        SELECT jsonb_object_agg(k.key, GREATEST(a -> k.key, b -> k.key))
        FROM (SELECT jsonb_object_keys(a) UNION SELECT jsonb_object_keys(b)) AS k (key)
    );
END
$$;

-- A time as a number whose maximum is the newest real time; an estimated one (the item had no time of its own)
-- loses to any real one, and among estimated ones the least wins.
CREATE FUNCTION event_clock(at timestamptz, is_estimated boolean) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (CASE WHEN is_estimated THEN -1 ELSE 1 END) * (extract(epoch FROM at) * 1000000)::bigint
$$;

-- Whether incoming links are worth a write: one is new, or a stored one has less than a day to live.
CREATE FUNCTION links_are_stale(stored jsonb, incoming jsonb, at timestamptz) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF incoming IS NULL OR stored IS NULL THEN
        RETURN incoming IS NOT NULL;
    END IF;
    RETURN EXISTS (
        SELECT FROM jsonb_each(incoming) AS i (key, value)
        WHERE NOT stored ? i.key
        OR (
            i.value > stored -> i.key
            AND (stored -> i.key ->> 0)::bigint < extract(epoch FROM at + interval '1 day') * 1000
        )
    );
END
$$;

-- The kind of an event: any that a version of this code has a name for beats `unknown`.
CREATE FUNCTION named_kind(a text, b text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT COALESCE(LEAST(NULLIF(a, 'unknown') COLLATE "C", NULLIF(b, 'unknown') COLLATE "C"), 'unknown')
$$;

-- [clock, text] of the edit that readers see.
CREATE FUNCTION last_edit(edits jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT e.value FROM jsonb_each(edits) AS e (key, value) ORDER BY e.key::bigint DESC LIMIT 1
$$;

-- Graph before original, an edit before Graph unless Graph was read after it.
CREATE FUNCTION visible_text(original jsonb, edits jsonb, graph jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN CASE
        WHEN edits IS NULL THEN COALESCE(graph #>> '{text,1}', original ->> 'text')
        WHEN graph #>> '{text,1}' IS NOT NULL
            AND (graph #>> '{text,0}')::bigint > (last_edit(edits) ->> 0)::bigint THEN graph #>> '{text,1}'
        ELSE last_edit(edits) ->> 1
    END;
END
$$;

-- A stored unsigned link becomes the signed one that is known for it.
CREATE FUNCTION signed_link(value jsonb, links jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN jsonb_typeof(value) = 'string' AND links ? (value #>> '{}') THEN links -> (value #>> '{}') -> 1
        ELSE value
    END
$$;

-- The attachments of both doors joined: the n-th of a type at one door is the n-th of that type at the other;
-- what Graph says of it goes before what the webhook said.
CREATE FUNCTION visible_attachments(original jsonb, graph jsonb, links jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN (
        WITH o AS (
            SELECT a.value, a.n, row_number() OVER (PARTITION BY a.value ->> 'type' ORDER BY a.n) AS nth
            FROM jsonb_array_elements(original) WITH ORDINALITY AS a (value, n)
        ),
        g AS (
            SELECT a.value, a.n, row_number() OVER (PARTITION BY a.value ->> 'type' ORDER BY a.n) AS nth
            FROM jsonb_array_elements(graph) WITH ORDINALITY AS a (value, n)
        ),
        joined AS (
            SELECT
                o.n AS original_n,
                g.n AS graph_n,
                COALESCE(o.value, '{}') || COALESCE(g.value, '{}') AS value,
                COALESCE(o.value -> 'extra', '{}') || COALESCE(g.value -> 'extra', '{}') AS extra
            FROM o FULL JOIN g ON o.value ->> 'type' = g.value ->> 'type' AND o.nth = g.nth
        )
        SELECT jsonb_agg(
            jsonb_strip_nulls(
                j.value
                || jsonb_build_object(
                    'url', signed_link(j.value -> 'url', links),
                    'url_expires_at', links -> (j.value ->> 'url') -> 2,
                    'extra', (
                        SELECT jsonb_object_agg(x.key, signed_link(x.value, links))
                        FROM jsonb_each(j.extra) AS x (key, value)
                    )
                )
            )
            ORDER BY j.original_n NULLS LAST, j.graph_n
        )
        FROM joined AS j
    );
END
$$;

-- Whether readers see another message in the registers, links without their signatures: what counts as a change.
CREATE FUNCTION reads_differently(
    original jsonb, edits jsonb, graph jsonb, new_original jsonb, new_edits jsonb, new_graph jsonb
) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    merged text[] := ARRAY['text', 'attachments', 'reply_to'];
BEGIN
    RETURN edits IS DISTINCT FROM new_edits
        OR visible_text(original, edits, graph) IS DISTINCT FROM visible_text(new_original, new_edits, new_graph)
        OR COALESCE(graph #>> '{reply_to,1}', original ->> 'reply_to')
            IS DISTINCT FROM COALESCE(new_graph #>> '{reply_to,1}', new_original ->> 'reply_to')
        OR COALESCE(original - merged, '{}') <> COALESCE(new_original - merged, '{}')
        OR COALESCE(graph #> '{reactions,1}', '[]') <> COALESCE(new_graph #> '{reactions,1}', '[]')
        OR (
            (original -> 'attachments', graph #> '{attachments,1}')
                IS DISTINCT FROM (new_original -> 'attachments', new_graph #> '{attachments,1}')
            AND visible_attachments(original -> 'attachments', graph #> '{attachments,1}', NULL)
                IS DISTINCT FROM visible_attachments(new_original -> 'attachments', new_graph #> '{attachments,1}', NULL)
        );
END
$$;

------------------------------------------------------------------------------------------------------------
-- Control tables: small, plain, the only ones that claims and leases touch.
------------------------------------------------------------------------------------------------------------

CREATE TABLE facebook_pages (
    page_id text COLLATE "C" PRIMARY KEY CHECK (page_id <> ''),
    name text, -- NULL until read from Graph or given
    token_encrypted text, -- Fernet; NULL once the Page is removed
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'needs_reauth', 'removed')),
    state_reason text, -- NULL while active
    subscribed_at timestamptz NOT NULL, -- since when webhooks are expected of this Page
    watermark timestamptz, -- Graph's clock; NULL until a walk of the whole list has completed
    last_synced_at timestamptz, -- our clock; NULL until a run has succeeded
    next_sync_at timestamptz NOT NULL,
    dropped_fields text[] NOT NULL DEFAULT '{}', -- fields that Graph refused for this Page
    failing_conversations integer NOT NULL DEFAULT 0, -- that could not be read when its last run ended
    lease_holder text, -- NULL while no run holds the Page
    lease_term bigint NOT NULL DEFAULT 0,
    lease_until timestamptz, -- NULL while no run holds the Page
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK (state = 'removed' OR token_encrypted IS NOT NULL),
    CHECK ((lease_holder IS NULL) = (lease_until IS NULL))
);
CREATE INDEX facebook_pages_by_last_synced_at ON facebook_pages (last_synced_at);
CREATE INDEX facebook_pages_due ON facebook_pages (next_sync_at) WHERE state = 'active';

CREATE TABLE backfills (
    id uuid PRIMARY KEY,
    since timestamptz NOT NULL,
    until timestamptz, -- NULL: no end
    page_ids text[] NOT NULL,
    requested_by text NOT NULL CHECK (requested_by IN ('api', 'cli')),
    requested_at timestamptz NOT NULL DEFAULT now(),
    cancelled_at timestamptz, -- NULL unless an operator cancelled it before it had ended
    CHECK (until IS NULL OR since < until)
);
CREATE INDEX backfills_by_time ON backfills (requested_at DESC, id DESC);

CREATE TABLE sync_runs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    page_id text COLLATE "C" NOT NULL REFERENCES facebook_pages,
    kind text NOT NULL CHECK (kind IN ('incremental', 'full', 'backfill', 'audit')),
    state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    since timestamptz, -- NULL but for a backfill
    until timestamptz, -- NULL: a backfill with no end
    backfill_ids uuid[] NOT NULL DEFAULT '{}', -- the backfills it works for; a later one may join while it is queued
    requested_by text NOT NULL CHECK (requested_by IN ('schedule', 'api', 'cli')),
    holder text, -- NULL until claimed
    term bigint, -- NULL until claimed
    attempts smallint NOT NULL DEFAULT 0, -- times it was claimed without getting a step further
    checkpoint jsonb, -- where the list stands; NULL until a step is stored. Its threads: unfinished_threads
    is_deep boolean NOT NULL DEFAULT false, -- a first load or full walk whose list has ended: it gives way
    first_response_at timestamptz, -- Graph's Date at the run's first answer; NULL until then
    newest_updated_time timestamptz, -- the newest conversation seen; NULL until one is
    conversations integer NOT NULL DEFAULT 0,
    messages integer NOT NULL DEFAULT 0,
    inserted integer NOT NULL DEFAULT 0,
    repaired integer NOT NULL DEFAULT 0,
    api_calls integer NOT NULL DEFAULT 0,
    failed_conversations integer NOT NULL DEFAULT 0,
    failing_conversations integer NOT NULL DEFAULT 0, -- the Page's that no run could read lately; 0 until it ends
    untried_conversations integer NOT NULL DEFAULT 0, -- of these, those that it did not try again; 0 until it ends
    order_violated boolean NOT NULL DEFAULT false,
    error text, -- NULL unless failed, interrupted, waiting, or succeeded with conversations left for the next run
    requested_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz, -- NULL until first claimed; one that gave way is queued again and keeps it
    finished_at timestamptz, -- NULL until ended
    CHECK ((kind = 'backfill') = (since IS NOT NULL)),
    CHECK (until IS NULL OR since < until),
    CHECK (started_at IS NOT NULL OR state IN ('queued', 'cancelled')),
    CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
);
CREATE UNIQUE INDEX sync_runs_one_queued ON sync_runs (
    page_id, kind, COALESCE(since, '-infinity'), COALESCE(until, 'infinity')
) WHERE state = 'queued' AND started_at IS NULL;
CREATE UNIQUE INDEX sync_runs_one_running ON sync_runs (page_id) WHERE state = 'running';
CREATE INDEX sync_runs_open ON sync_runs (page_id, id) WHERE state IN ('queued', 'running');
CREATE INDEX sync_runs_by_backfill ON sync_runs USING gin (backfill_ids);
CREATE INDEX sync_runs_by_page ON sync_runs (page_id, id DESC);

-- Until when Graph is not to be called. The scope is 'app', or 'page:' and the Page's id.
CREATE TABLE cooldowns (
    scope text COLLATE "C" PRIMARY KEY CHECK (scope = 'app' OR scope LIKE 'page:_%'),
    until timestamptz NOT NULL, -- Postgres' clock
    repeated integer NOT NULL DEFAULT 0, -- how often in a row: the pauses grow
    reason text NOT NULL
);

CREATE TABLE tags (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name <> ''),
    colour text, -- NULL: none chosen
    created_at timestamptz NOT NULL DEFAULT now()
);

------------------------------------------------------------------------------------------------------------
-- Tables that grow with a Page's traffic: page_id first in every key, and no join across Pages.
------------------------------------------------------------------------------------------------------------

CREATE TABLE conversations (
    page_id text COLLATE "C" NOT NULL CHECK (page_id <> ''),
    psid text COLLATE "C" NOT NULL CHECK (psid <> ''), -- the thread's id while Graph has not shown the person
    -- the least that was told: `messenger` is also assumed where nothing was
    platform text COLLATE "C" NOT NULL CHECK (platform <> ''),
    -- {field: [updated_time_ms, observed_ms, value]}; NULL until Graph has shown the conversation
    graph jsonb,
    name text GENERATED ALWAYS AS (graph #>> '{name,2}') STORED,
    updated_time timestamptz GENERATED ALWAYS AS (
        to_timestamp((graph #>> '{updated_time,2}')::double precision / 1000)
    ) STORED,
    unread_count integer GENERATED ALWAYS AS ((graph #>> '{unread_count,2}')::integer) STORED,
    message_count integer GENERATED ALWAYS AS ((graph #>> '{message_count,2}')::integer) STORED,
    can_reply boolean GENERATED ALWAYS AS ((graph #>> '{can_reply,2}')::boolean) STORED,
    delivered_watermark timestamptz, -- what the Page sent up to here was delivered; NULL until a receipt
    read_watermark timestamptz, -- what the Page sent up to here was read; NULL until a receipt
    last_message_mid text COLLATE "C", -- NULL while no message is known, and so the next three
    last_message_at timestamptz,
    last_message_direction text,
    snippet text, -- also NULL when the last message has no text
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL, -- our clock at the last write that changed what readers see of this
    PRIMARY KEY (page_id, psid)
); -- grows with a Page's traffic
CREATE INDEX conversations_by_activity ON conversations (page_id, last_message_at DESC, psid DESC)
WHERE last_message_at IS NOT NULL;
CREATE INDEX conversations_by_activity_of_all ON conversations (last_message_at DESC, page_id DESC, psid DESC)
WHERE last_message_at IS NOT NULL;

CREATE TABLE conversation_threads (
    page_id text COLLATE "C" NOT NULL CHECK (page_id <> ''),
    thread_id text COLLATE "C" NOT NULL CHECK (thread_id <> ''),
    psid text COLLATE "C" NOT NULL CHECK (psid <> ''), -- the thread_id itself until the person is known
    synced_to timestamptz, -- Graph's clock; NULL until its messages were read to the beginning
    sync_error text, -- NULL unless its last reading failed; then it is tried by id in the next run
    failures integer NOT NULL DEFAULT 0, -- readings that failed in a row
    failed_in bigint, -- the run in which it last failed; NULL unless it did
    failed_at timestamptz, -- likewise; our clock
    created_at timestamptz NOT NULL,
    PRIMARY KEY (page_id, thread_id)
); -- grows with a Page's traffic
CREATE INDEX conversation_threads_by_psid ON conversation_threads (page_id, psid);
CREATE INDEX conversation_threads_failed ON conversation_threads (page_id, thread_id) WHERE sync_error IS NOT NULL;

-- The threads of a run whose messages are not all read yet: the part of its checkpoint that may be long.
CREATE TABLE unfinished_threads (
    page_id text COLLATE "C" NOT NULL CHECK (page_id <> ''),
    run_id bigint NOT NULL,
    thread_id text COLLATE "C" NOT NULL CHECK (thread_id <> ''),
    psid text COLLATE "C", -- NULL while Graph has not shown the person
    cursor text, -- NULL: from its newest message
    target timestamptz, -- down to where to read; NULL: to the beginning
    reached timestamptz, -- what synced_to becomes at the end; NULL to leave it (a backfill)
    PRIMARY KEY (page_id, run_id, thread_id)
); -- grows with a Page's traffic
CREATE INDEX unfinished_threads_by_thread ON unfinished_threads (page_id, thread_id);

CREATE TABLE messages (
    page_id text COLLATE "C" NOT NULL CHECK (page_id <> ''),
    mid text COLLATE "C" NOT NULL CHECK (mid <> ''),
    -- the thread_id itself until the person is known; NULL while only items that name nobody are known
    psid text COLLATE "C" CHECK (psid <> ''),
    thread_id text COLLATE "C", -- NULL until Graph has shown the message
    direction text CHECK (direction IN ('inbound', 'outbound')), -- NULL until a door told who sent it
    sent_at timestamptz, -- NULL until the message itself was seen: a placeholder for one only referred to
    -- whose time sent_at is: 0 the webhook's own, 1 Graph's whole second, 2 estimated, 9 none yet
    sent_at_rank smallint NOT NULL CHECK (sent_at_rank IN (0, 1, 2, 9)),
    deleted_at timestamptz, -- NULL unless unsent; a tombstone keeps time, person and direction, nothing else
    deleted_at_is_estimated boolean NOT NULL DEFAULT false,
    original jsonb, -- what webhooks said; NULL until one did
    edits jsonb, -- NULL until edited
    graph jsonb, -- what Graph said; NULL until it did
    links jsonb, -- signed links of the attachments, which expire; NULL without
    is_deleted boolean NOT NULL GENERATED ALWAYS AS (deleted_at IS NOT NULL) STORED,
    text text GENERATED ALWAYS AS (visible_text(original, edits, graph)) STORED,
    attachments jsonb GENERATED ALWAYS AS (
        CASE
            WHEN original ? 'attachments' OR graph ? 'attachments'
                THEN visible_attachments(original -> 'attachments', graph -> 'attachments' -> 1, links)
        END
    ) STORED,
    reply_to text COLLATE "C" GENERATED ALWAYS AS (
        COALESCE(graph #>> '{reply_to,1}', original ->> 'reply_to')
    ) STORED,
    app_id text GENERATED ALWAYS AS (original ->> 'app_id') STORED, -- of an echo: the app that sent it
    reactions_observed_at timestamptz GENERATED ALWAYS AS (
        to_timestamp((graph #>> '{reactions,0}')::double precision / 1000)
    ) STORED,
    webhook_seen_at timestamptz, -- NULL until a webhook brought the message itself (not an edit or a reaction)
    sync_seen_at timestamptz, -- NULL until a sync run brought it
    first_seen_at timestamptz GENERATED ALWAYS AS (LEAST(webhook_seen_at, sync_seen_at)) STORED,
    first_seen_via text GENERATED ALWAYS AS (
        CASE
            WHEN webhook_seen_at IS NULL AND sync_seen_at IS NULL THEN NULL
            WHEN sync_seen_at IS NULL OR webhook_seen_at <= sync_seen_at THEN 'webhook'
            ELSE 'sync'
        END
    ) STORED,
    delivery_day date, -- the delivery it came from; NULL until a webhook told of it
    delivery_id uuid,
    moved_from text COLLATE "C", -- the person it stood under before; NULL unless that changed
    -- a stone where a message was whose person was erased: of all that is still told of it, only whose it is is kept
    is_erased boolean NOT NULL DEFAULT false,
    seen_batch bigint, -- the write that first brought the message itself; NULL for a placeholder
    changed_batch bigint NOT NULL, -- the last write that changed what readers see
    updated_at timestamptz NOT NULL, -- our clock at that write
    PRIMARY KEY (page_id, mid),
    CHECK ((sent_at IS NULL) = (sent_at_rank = 9)),
    CHECK ((sent_at IS NULL) = (seen_batch IS NULL)),
    CHECK (sent_at IS NULL OR psid IS NOT NULL),
    CHECK (
        deleted_at IS NULL OR (original IS NULL AND edits IS NULL AND graph IS NULL AND links IS NULL)
    ),
    CHECK (NOT is_erased OR (
        direction IS NULL AND sent_at IS NULL AND deleted_at IS NULL AND delivery_id IS NULL
        AND original IS NULL AND edits IS NULL AND graph IS NULL AND links IS NULL
    )),
    CHECK ((delivery_day IS NULL) = (delivery_id IS NULL))
); -- grows with a Page's traffic
-- placeholders too: a conversation that moves from its thread's id to its person takes them along
CREATE INDEX messages_by_time ON messages (page_id, psid, sent_at DESC, mid DESC);

CREATE TABLE message_reactions (
    page_id text COLLATE "C" NOT NULL CHECK (page_id <> ''),
    mid text COLLATE "C" NOT NULL CHECK (mid <> ''),
    actor text COLLATE "C" NOT NULL CHECK (actor <> ''),
    reaction text, -- smile, angry, sad, wow, love, like, dislike, other; NULL where Facebook did not say
    emoji text, -- NULL where Facebook did not say
    is_removed boolean NOT NULL, -- a stone: this actor's reaction was taken back
    reacted_at timestamptz, -- NULL: known from a list read from Graph, which gives no times
    reacted_at_is_estimated boolean NOT NULL DEFAULT false,
    delivery_day date, -- NULL: brought by a sync run
    delivery_id uuid,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (page_id, mid, actor),
    CHECK (reacted_at IS NOT NULL OR NOT is_removed)
); -- grows with a Page's traffic

CREATE TABLE conversation_events (
    page_id text COLLATE "C" NOT NULL CHECK (page_id <> ''),
    event_key text COLLATE "C" NOT NULL CHECK (event_key <> ''),
    psid text COLLATE "C", -- NULL: Facebook named no person (user_ref, app roles, a Page's own event)
    kind text NOT NULL CHECK (kind <> ''),
    via text NOT NULL CHECK (via IN ('messaging', 'standby', 'changes', 'calls', 'entry')),
    mid text COLLATE "C", -- the message it is about; NULL for most
    occurred_at timestamptz NOT NULL,
    occurred_at_is_estimated boolean NOT NULL,
    payload jsonb NOT NULL,
    received_at timestamptz NOT NULL,
    delivery_day date NOT NULL,
    delivery_id uuid NOT NULL,
    seen_batch bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (page_id, event_key)
); -- grows with a Page's traffic
CREATE INDEX conversation_events_by_psid ON conversation_events (page_id, psid, occurred_at DESC, event_key);

CREATE TABLE conversation_tags (
    page_id text COLLATE "C" NOT NULL CHECK (page_id <> ''),
    psid text COLLATE "C" NOT NULL CHECK (psid <> ''),
    tag_id bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (page_id, psid, tag_id)
); -- grows with a Page's traffic
CREATE INDEX conversation_tags_by_tag ON conversation_tags (page_id, tag_id, psid);

------------------------------------------------------------------------------------------------------------
-- The journal: every delivery as it came, by day.
------------------------------------------------------------------------------------------------------------

CREATE TABLE webhook_deliveries (
    day date NOT NULL, -- of received_at, in UTC
    id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    body bytea NOT NULL,
    -- stored: every item became rows; partial: some did; dead: none did; test: a dashboard's test, not stored as rows
    state text NOT NULL CHECK (state IN ('stored', 'partial', 'dead', 'test')),
    items integer NOT NULL CHECK (items >= 0),
    dead_letters jsonb, -- [{"path": "entry[0].messaging[1]", "reason": "..."}]; NULL without
    replayed_at timestamptz, -- NULL until replayed
    PRIMARY KEY (day, id),
    CHECK ((state IN ('partial', 'dead')) = (dead_letters IS NOT NULL))
) PARTITION BY RANGE (day);
CREATE INDEX webhook_deliveries_by_time ON webhook_deliveries (received_at, id);
CREATE INDEX webhook_deliveries_dead ON webhook_deliveries (received_at, id) WHERE state IN ('partial', 'dead');

------------------------------------------------------------------------------------------------------------
-- The merge of two rows about one message, as one function: what is stored and what comes in.
------------------------------------------------------------------------------------------------------------

CREATE FUNCTION merge_message(stored messages, incoming messages) RETURNS messages
LANGUAGE plpgsql STABLE AS $$
DECLARE
    r messages := stored;
BEGIN
    r.thread_id := GREATEST(stored.thread_id, incoming.thread_id);
    -- a thread's id stands in for a person not yet known: anybody real beats it
    r.psid := COALESCE(
        GREATEST(NULLIF(stored.psid, stored.thread_id), NULLIF(incoming.psid, incoming.thread_id)),
        r.thread_id
    );
    IF stored.is_erased THEN
        IF r.psid <> stored.psid THEN
            r.moved_from := stored.psid;
        END IF;
        RETURN r;
    END IF;
    r.direction := GREATEST(stored.direction, incoming.direction);
    -- the webhook's own time beats Graph's whole second, that beats an estimate; of two alike the least
    IF (incoming.sent_at_rank, incoming.sent_at) < (stored.sent_at_rank, stored.sent_at) THEN
        r.sent_at := incoming.sent_at;
        r.sent_at_rank := incoming.sent_at_rank;
    END IF;
    IF incoming.deleted_at IS NOT NULL AND (
        stored.deleted_at IS NULL
        OR (incoming.deleted_at_is_estimated, incoming.deleted_at) < (stored.deleted_at_is_estimated, stored.deleted_at)
    ) THEN
        r.deleted_at := incoming.deleted_at;
        r.deleted_at_is_estimated := incoming.deleted_at_is_estimated;
    END IF;
    IF r.deleted_at IS NOT NULL THEN
        r.original := NULL;
        r.edits := NULL;
        r.graph := NULL;
        r.links := NULL;
    ELSE
        r.original := merge_fields(stored.original, incoming.original);
        r.edits := merge_fields(stored.edits, incoming.edits);
        r.graph := merge_fields(stored.graph, incoming.graph);
        IF links_are_stale(stored.links, incoming.links, incoming.updated_at) THEN
            r.links := merge_fields(stored.links, incoming.links);
        END IF;
    END IF;
    r.webhook_seen_at := LEAST(stored.webhook_seen_at, incoming.webhook_seen_at);
    r.sync_seen_at := LEAST(stored.sync_seen_at, incoming.sync_seen_at);
    IF stored.delivery_id IS NULL THEN
        r.delivery_day := incoming.delivery_day;
        r.delivery_id := incoming.delivery_id;
    END IF;
    IF r.psid <> stored.psid THEN
        r.moved_from := stored.psid;
    END IF;
    IF stored.seen_batch IS NULL AND r.sent_at IS NOT NULL THEN
        r.seen_batch := incoming.changed_batch;
    END IF;
    -- neither provenance, nor which door said it, nor a link's signature is something that readers see
    IF (stored.psid, stored.direction, stored.sent_at, stored.deleted_at)
        IS DISTINCT FROM (r.psid, r.direction, r.sent_at, r.deleted_at)
        OR reads_differently(stored.original, stored.edits, stored.graph, r.original, r.edits, r.graph) THEN
        r.changed_batch := incoming.changed_batch;
        r.updated_at := incoming.updated_at;
    END IF;
    RETURN r;
END
$$;
