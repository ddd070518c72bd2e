-- What audits find: of each run, of each conversation, of each message.

ALTER TABLE facebook_pages
ADD COLUMN next_audit_at timestamptz; -- when the next rolling audit is due; NULL until the schedule has seen the Page
CREATE INDEX facebook_pages_audit_due ON facebook_pages (next_audit_at) WHERE state = 'active';

ALTER TABLE sync_runs
ADD COLUMN call_budget integer CHECK (call_budget > 0), -- calls that a rolling audit may make; NULL: as many as it needs
-- {conversations_verified, conversations_repaired, conversations_unverifiable,
--  messages_restored: Graph showed them and we had none, messages_changed: ours read otherwise,
--  messages_missing: ours that Graph lists no more, for the second time or more}, and from its end on
-- {coverage: the share of the Page's conversations that was verified within coverage_days, oldest_audited_at}
ADD COLUMN audit jsonb CHECK (audit IS NULL OR kind = 'audit'); -- NULL but for an audit that has found or ended

ALTER TABLE conversation_threads
-- how it stood when it was last compared; NULL until it was. verified: as Graph shows it; repaired: it was not;
-- unverifiable: Graph refuses details of it, as it does of messages that are too old, or all of it
ADD COLUMN audit_state text CHECK (audit_state IN ('verified', 'repaired', 'unverifiable')),
ADD COLUMN audited_at timestamptz, -- our clock, likewise
ADD COLUMN audit_tried_at timestamptz, -- when an audit last had its turn with it; NULL until one had
ADD COLUMN audit_tried_in bigint, -- the run that last began to read it; NULL until one did
ADD CONSTRAINT conversation_threads_audited CHECK ((audit_state IS NULL) = (audited_at IS NULL));
DROP INDEX conversation_threads_by_psid;
CREATE INDEX conversation_threads_by_psid ON conversation_threads (page_id, psid) INCLUDE (audit_state, audited_at);

-- What an audit has found of a thread that it has not read to its end.
ALTER TABLE unfinished_threads
ADD COLUMN listed_from timestamptz, -- Graph's clock at its first page; NULL until an audit has read that
ADD COLUMN stubs integer NOT NULL DEFAULT 0, -- messages without details
ADD COLUMN is_clean boolean NOT NULL DEFAULT true, -- false: a row could not be read, so it may be any message's
ADD COLUMN restored integer NOT NULL DEFAULT 0,
ADD COLUMN changed integer NOT NULL DEFAULT 0;

-- The ids that Graph listed of such a thread, page by page: compared, and dropped, once it has been read to its end.
CREATE TABLE audit_listings (
    page_id text COLLATE "C" NOT NULL CHECK (page_id <> ''),
    run_id bigint NOT NULL,
    thread_id text COLLATE "C" NOT NULL CHECK (thread_id <> ''),
    part integer NOT NULL,
    mids text[] NOT NULL,
    PRIMARY KEY (page_id, run_id, thread_id, part),
    FOREIGN KEY (page_id, run_id, thread_id) REFERENCES unfinished_threads ON DELETE CASCADE
); -- grows with a Page's traffic

ALTER TABLE messages
ADD COLUMN absent_since timestamptz, -- Graph's clock at the first complete listing without it; NULL when the last had it
ADD COLUMN missing_in_graph_since timestamptz, -- the same, from the second such listing on
ADD CONSTRAINT messages_missing_were_absent CHECK (missing_in_graph_since IS NULL OR absent_since IS NOT NULL);
CREATE INDEX messages_absent ON messages (page_id, psid, mid) WHERE absent_since IS NOT NULL;
