-- What webhooks were expected to bring: from when until when a Page was subscribed to a field by our will. Time in which
-- Meta dropped a subscription stays inside a span: that is what the loss report is for.
CREATE TABLE webhook_expectations (
    page_id text COLLATE "C" NOT NULL REFERENCES facebook_pages,
    field text NOT NULL CHECK (field <> ''),
    started_at timestamptz NOT NULL,
    ended_at timestamptz, -- NULL while it goes on; set when we unsubscribe, pause or remove, or Graph refuses the field
    PRIMARY KEY (page_id, field, started_at),
    CHECK (ended_at IS NULL OR started_at <= ended_at)
);
CREATE UNIQUE INDEX webhook_expectations_open ON webhook_expectations (page_id, field) WHERE ended_at IS NULL;

-- Reports read messages by time over all conversations; rows come in about that order, so a summary of ranges does, at
-- next to no cost for who writes.
CREATE INDEX messages_by_day ON messages USING brin (sent_at timestamptz_minmax_multi_ops) WITH (pages_per_range = 32);
