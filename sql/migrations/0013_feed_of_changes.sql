-- The feed of changes: which messages, conversations and events are new or read differently, in an order in which a reader
-- misses nothing.
--
-- Why nothing is missed: a transaction gets its id before it writes here, and a reader reads only what has an id below that
-- of the oldest transaction that goes on (the horizon). All of those have ended; whoever commits later has an id above, in
-- the order of which the reader goes on. A sequence or a time in the ids' place would be missed where a transaction that
-- began earlier commits later. The price: a transaction that goes on for long holds up the feed, which loses nothing.
--
-- Rows are keys alone. What stands under a key is told as it is when somebody reads: so erasing leaves nothing here.

CREATE SEQUENCE changes_seq CACHE 50; -- ascends within a transaction, which is all that is asked of it

CREATE TABLE changes (
    day date NOT NULL, -- on which its transaction began, in UTC
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seq bigint NOT NULL DEFAULT nextval('changes_seq'),
    changed_at timestamptz NOT NULL DEFAULT now(), -- Postgres' clock
    -- page: all of the Page was erased
    kind text NOT NULL CHECK (kind IN ('message', 'conversation', 'event', 'page')),
    page_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL, -- mid, psid, event_key, or page_id
    psid text COLLATE "C" -- whose it is; NULL where nobody told, and of a Page
) PARTITION BY RANGE (day);
-- ids ascend, so it grows at its end
CREATE INDEX changes_by_position ON changes (xid, seq);

------------------------------------------------------------------------------------------------------------
-- Which feed it is: after a restore, or in a copy, transactions are numbered anew, and may take back what was read.
------------------------------------------------------------------------------------------------------------

CREATE TABLE changes_feed (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    epoch uuid NOT NULL, -- another one: whoever reads has to start over
    identity text NOT NULL, -- of the database that gave itself this epoch
    -- the transaction that wrote this row last: in a dump that was loaded, it is not the one that the row is from
    written_by xid8 NOT NULL,
    -- the last place that retention has taken away; NULL until it has taken one
    dropped_xid xid8,
    dropped_seq bigint
);

-- What a database is in a cluster, and that since its last recovery: copies, dumps that were loaded, a backup that was
-- rolled forward and a standby that took over are others. Where a hosted Postgres does not tell a part, it is left out.
CREATE FUNCTION database_identity() RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    cluster text := '';
    timeline text := '';
BEGIN
    BEGIN
        SELECT s.system_identifier::text INTO cluster FROM pg_control_system() AS s;
    EXCEPTION WHEN insufficient_privilege OR feature_not_supported THEN
        NULL;
    END;
    BEGIN
        timeline := left(pg_walfile_name(pg_current_wal_lsn()), 8);
    EXCEPTION WHEN insufficient_privilege OR feature_not_supported THEN
        NULL;
    END;
    RETURN concat_ws(
        '/', cluster, timeline, (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    );
END
$$;

INSERT INTO changes_feed (epoch, identity, written_by)
VALUES (gen_random_uuid(), database_identity(), pg_current_xact_id());

------------------------------------------------------------------------------------------------------------
-- Writing and reading.
------------------------------------------------------------------------------------------------------------

-- Make the partition of one day, where it is missing.
--
-- Waits for nobody who reads or writes the table, and nobody for it: attaching takes a lock that a CREATE TABLE ...
-- PARTITION OF would not be content with.
CREATE FUNCTION make_day_partition(of_table text, of_day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := of_table || '_' || to_char(of_day, 'YYYYMMDD');
BEGIN
    -- two that start at once would otherwise both create it and one would fail
    PERFORM pg_advisory_xact_lock(7226831904114);
    -- not to_regclass, which may still know from before that there was none
    IF NOT EXISTS (
        SELECT FROM pg_class AS t JOIN pg_class AS p ON p.relnamespace = t.relnamespace
        WHERE t.oid = of_table::regclass AND p.relname = name
    ) THEN
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', name, of_table);
        EXECUTE format(
            'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', of_table, name, of_day, of_day + 1
        );
    END IF;
END
$$;

-- Note that readers see something else under these keys. A day's partition that nobody made ahead is made.
CREATE FUNCTION note_changes(changed change_row[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    IF COALESCE(cardinality(changed), 0) = 0 THEN
        RETURN;
    END IF;
    IF to_regclass('changes_' || to_char(today, 'YYYYMMDD')) IS NULL THEN
        PERFORM make_day_partition('changes', today);
    END IF;
    INSERT INTO changes (day, kind, page_id, key, psid)
    SELECT DISTINCT today, n.kind, n.page_id, n.key, n.psid FROM unnest(changed) AS n;
END
$$;

-- The next changes after a place and below a horizon, at most so many.
CREATE FUNCTION changes_after(after_xid xid8, after_seq bigint, below xid8, most integer)
RETURNS SETOF changes LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN QUERY
        SELECT c.* FROM changes AS c
        WHERE (c.xid, c.seq) > (after_xid, after_seq) AND c.xid < below
        ORDER BY c.xid, c.seq LIMIT most;
END
$$;

-- The newest change that may be read.
CREATE FUNCTION newest_change() RETURNS SETOF changes LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
BEGIN
    RETURN QUERY
        SELECT c.* FROM changes AS c
        WHERE c.xid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY c.xid DESC, c.seq DESC LIMIT 1;
END
$$;

-- The first change that is committed and may not be read yet, as an older transaction goes on.
CREATE FUNCTION first_held_change() RETURNS SETOF changes LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
BEGIN
    RETURN QUERY
        SELECT c.* FROM changes AS c
        WHERE c.xid >= pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY c.xid, c.seq LIMIT 1;
END
$$;
