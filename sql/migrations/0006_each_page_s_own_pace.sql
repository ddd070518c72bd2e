-- When each Page is due, and how many calls of Graph it is good for.
ALTER TABLE facebook_pages
ADD COLUMN sync_interval_seconds double precision, -- NULL until a run has ended: the configured one
ADD COLUMN daily_call_budget integer, -- calls in any 24 hours; NULL until Meta's usage headers have told
ADD COLUMN calls_last_day integer NOT NULL DEFAULT 0, -- calls of the 24 hours before its last run ended
ADD COLUMN usage_percent double precision, -- of Meta's limit, at the last run's end; NULL: Meta told none
ADD COLUMN brought_forward_at timestamptz; -- when webhooks may have been lost, so that it was made due early; NULL: never

CREATE INDEX sync_runs_by_end ON sync_runs (page_id, finished_at);

-- The order in which queued runs are claimed: however many wait, a claim looks at the first few.
CREATE INDEX sync_runs_queue ON sync_runs ((
    CASE WHEN is_deep THEN 3 ELSE array_position('{incremental,full,deep,backfill,audit}'::text[], kind) END
), id) WHERE state = 'queued';

-- When something of ours that should always be running last was: a gap is our own downtime.
CREATE TABLE heartbeats (
    name text PRIMARY KEY CHECK (name <> ''),
    at timestamptz NOT NULL
);
