-- Lists of conversations by tag, by what is unread and by what was said, each out of an index.

-- The order of activity, as far as tags keep it: coarse, so that a chat does not write each of its tags anew with every
-- message. Readers sort what lies within one of these spans.
CREATE FUNCTION span_of(at timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT date_bin('10 minutes', at, timestamptz '2000-01-01 00:00:00+00')
$$;

-- The span of a conversation's last message stands with each of its tags: so the conversations of a tag come out of an
-- index newest first, be they few or many among the others. `derive_last_messages` keeps it, and whoever puts a tag on
-- locks the conversation first.
ALTER TABLE conversation_tags ADD COLUMN active_at timestamptz; -- NULL while no message is known
UPDATE conversation_tags AS t SET active_at = span_of(c.last_message_at)
FROM conversations AS c WHERE c.page_id = t.page_id AND c.psid = t.psid;
DROP INDEX conversation_tags_by_tag;
CREATE INDEX conversation_tags_by_activity ON conversation_tags (page_id, tag_id, active_at DESC) INCLUDE (psid);
CREATE INDEX conversation_tags_by_activity_of_all ON conversation_tags (tag_id, active_at DESC)
INCLUDE (page_id, psid);

ALTER TABLE tags
ADD CONSTRAINT tags_colour_is_hex CHECK (colour ~ '^#[0-9a-f]{6}$');

-- Graph's count of unread messages knows nothing of what came after it was read: then the last message tells.
ALTER TABLE conversations ADD COLUMN is_unread boolean NOT NULL GENERATED ALWAYS AS (
    COALESCE(
        CASE
            WHEN last_message_at < to_timestamp(1 + (graph #>> '{unread_count,0}')::double precision / 1000)
                THEN (graph #>> '{unread_count,2}')::integer > 0
            ELSE last_message_direction = 'inbound'
        END,
        false
    )
) STORED;
CREATE INDEX conversations_unread ON conversations (page_id, last_message_at DESC, psid DESC) WHERE is_unread;
CREATE INDEX conversations_unread_of_all ON conversations (last_message_at DESC, page_id DESC, psid DESC)
WHERE is_unread;

-- Words as they are, in no language. Left to itself Postgres takes "ticket-12345" for a word and a negative number, and
-- "and/or" or an address for one word, so that who looks for a part of them finds nothing: what glues them is a space
-- here. (Six replace() cost a tenth of one translate().) A text's end is cut off where Postgres would refuse all of it.
CREATE FUNCTION words_of(said text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT to_tsvector('simple', replace(replace(replace(replace(replace(replace(
        left(said, 8000), '-', ' '), '/', ' '), '.', ' '), '@', ' '), '+', ' '), '<', ' '))
$$;

-- The names, for searching: beside the conversations, whose rows change with every message, and then all their indexes.
CREATE TABLE conversation_names (
    page_id text COLLATE "C" NOT NULL CHECK (page_id <> ''),
    psid text COLLATE "C" NOT NULL CHECK (psid <> ''),
    name text NOT NULL,
    PRIMARY KEY (page_id, psid)
); -- grows with a Page's traffic
CREATE INDEX conversation_names_by_word ON conversation_names USING gin (words_of(name));

-- New entries go to a list first that is merged in one go: by housekeeping, and by a writer only when it has grown long.
CREATE INDEX messages_by_word ON messages USING gin (words_of(text))
WITH (gin_pending_list_limit = 32768)
WHERE text IS NOT NULL AND sent_at IS NOT NULL;

-- What a text must hold to be found: all of these words, or longer ones that begin like them.
CREATE FUNCTION search_words(wanted text) RETURNS tsquery LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT COALESCE(string_agg(
        '''' || replace(replace(w.lexeme, '\', '\\'), '''', '''''') || ''':*', ' & '
    ), '')::tsquery
    FROM unnest(words_of(wanted)) AS w
$$;

-- Copy the names of conversations that Graph has shown, for searching. Their rows are locked by now.
CREATE FUNCTION derive_names(keys conversation_key[]) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    INSERT INTO conversation_names AS s (page_id, psid, name)
    SELECT DISTINCT c.page_id, c.psid, c.name
    FROM unnest(keys) AS n
    JOIN conversations AS c ON c.page_id = n.page_id AND c.psid = n.psid
    LEFT JOIN conversation_names AS o ON o.page_id = n.page_id AND o.psid = n.psid
    WHERE c.name IS NOT NULL AND c.name IS DISTINCT FROM o.name
    ON CONFLICT (page_id, psid) DO UPDATE SET name = excluded.name;
END
$$;
SELECT derive_names(array_agg(ROW(c.page_id, c.psid)::conversation_key))
FROM conversations AS c WHERE c.name IS NOT NULL;
