-- What the owner does with a Page besides adding it.

ALTER TABLE page_subscriptions
ADD COLUMN is_wanted boolean NOT NULL DEFAULT true; -- false: the owner ended it, and the watchdog leaves it so

-- Pages whose data is to go, chunk by chunk, and has gone.
CREATE TABLE page_erasures (
    page_id text COLLATE "C" PRIMARY KEY CHECK (page_id <> ''),
    requested_at timestamptz NOT NULL, -- our clock; of the journal, what came in by then goes
    claimed_until timestamptz, -- Postgres' clock: until then a process sees to it; NULL while none does
    journal_day date, -- the journal's days up to this one are rid of it; NULL until the first is
    done_at timestamptz -- NULL until all has gone
);
CREATE INDEX page_erasures_open ON page_erasures (requested_at) WHERE done_at IS NULL;
