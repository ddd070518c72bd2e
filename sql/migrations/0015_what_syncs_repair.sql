-- What sync runs brought of messages that a webhook should have: whether one was missed is decided 15 minutes after it
-- was sent and brought. Until then it stands here, and counts as repaired.
CREATE TABLE brought_messages (
    page_id text COLLATE "C" NOT NULL CHECK (page_id <> ''),
    mid text COLLATE "C" NOT NULL CHECK (mid <> ''),
    run_id bigint NOT NULL,
    was_just_sent boolean NOT NULL, -- when Graph showed it: its webhook may have been on its way
    decided_at timestamptz NOT NULL, -- Postgres' clock: not before
    PRIMARY KEY (page_id, mid)
); -- grows with a Page's traffic
CREATE INDEX brought_messages_to_decide ON brought_messages (decided_at);
