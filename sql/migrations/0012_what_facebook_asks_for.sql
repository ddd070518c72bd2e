-- What Facebook asks for by its two callbacks: that a person's data go, or that a person took back what they allowed.
CREATE TABLE facebook_requests (
    code text PRIMARY KEY CHECK (code ~ '^[0-9a-f]{20}$'), -- whoever has it may see how far the request is
    digest bytea NOT NULL CHECK (octet_length(digest) = 32), -- SHA-256 of what was signed: it may come again
    kind text NOT NULL CHECK (kind IN ('data_deletion', 'deauthorize')),
    user_id text, -- the person's id for our app, which is no PSID; NULL once it is not needed any more
    page_id text, -- the Page that it is about; NULL where it is about a person
    received_at timestamptz NOT NULL,
    next_try_at timestamptz NOT NULL, -- our clock
    -- unmatched: Facebook does not tell whose conversations are meant, so its owner has to
    state text NOT NULL DEFAULT 'received' CHECK (state IN ('received', 'done', 'unmatched')),
    persons jsonb NOT NULL DEFAULT '[]', -- [[page_id, psid], ...]: whose conversations were erased
    outcome text, -- for the owner; NULL until something was tried
    finished_at timestamptz, -- NULL while received
    CHECK ((state = 'received') = (finished_at IS NULL)),
    -- who deletes an app and their data with it may be told of by both callbacks within a second, in the same words
    UNIQUE (digest, kind)
);
CREATE INDEX facebook_requests_open ON facebook_requests (next_try_at) WHERE state = 'received';
CREATE INDEX facebook_requests_by_time ON facebook_requests (received_at DESC, code DESC);
