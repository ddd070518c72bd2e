-- What the watchdog knows of a Page's webhooks, and each time it had to act.
CREATE TABLE page_subscriptions (
    page_id text COLLATE "C" PRIMARY KEY REFERENCES facebook_pages,
    next_check_at timestamptz NOT NULL DEFAULT now(),
    checked_at timestamptz, -- NULL until Graph has answered once
    subscribed_fields text[] NOT NULL DEFAULT '{}', -- as Graph told when last asked, or after mending
    refused_fields text[] NOT NULL DEFAULT '{}', -- wanted fields that Graph does not let this Page subscribe to
    error text, -- NULL unless the last check failed
    last_webhook_at timestamptz, -- our clock; NULL until a webhook of the Page has come
    webhook_gap_seconds double precision -- how long it usually is from one webhook to the next; NULL until two have come
);

CREATE TABLE subscription_repairs (
    page_id text COLLATE "C" NOT NULL REFERENCES facebook_pages,
    at timestamptz NOT NULL,
    missing_fields text[] NOT NULL, -- what Meta had dropped
    restored_fields text[] NOT NULL,
    error text, -- NULL unless something could not be restored
    PRIMARY KEY (page_id, at)
);
