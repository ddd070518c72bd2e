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
-- here. A text's end is cut off where Postgres would refuse all of it.
--
-- Letters in whatever form they came, accents apart or not, wide, bold: one form (NFKC). Scripts without spaces between
-- words are cut into overlapping pieces, for only a dictionary could tell the words: "abcd" in threes is abc, bcd, cd
-- and d, so that whatever part of it is sought is how one of these begins, or several together. In twos where signs are
-- many (and emoji), in threes where they are letters. Invisible signs between those are left out: some write them, most
-- don't. No function of ours is named here: while a dump is restored, they are not found.
CREATE FUNCTION words_beyond_ascii(said text) RETURNS tsvector LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    -- kana, bopomofo and Chinese characters; symbols and emoji
    in_twos CONSTANT text := '\u3005-\u3007\u3021-\u3029\u3041-\u3096\u3099-\u309F\u30A1-\u30FA\u30FC-\u312F'
        '\u31A0-\u31BF\u31F0-\u31FF\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF\U00020000-\U0003FFFF'
        '\u2300-\u23FF\u2600-\u27BF\u2B00-\u2BFF\U0001F000-\U0001FAFF';
    -- Thai and Lao, Burmese, Khmer: with their digits, without marks between sentences and signs of money
    in_threes CONSTANT text := '\u0E01-\u0E3E\u0E40-\u0EFF\u1000-\u1049\u104C-\u109F\uA9E0-\uA9FF\uAA60-\uAA7F'
        '\u1780-\u17D3\u17D7\u17DC-\u17FF';
    shown text := left(said, 8000);
    words tsvector;
    runs text;
    cut text := '';
BEGIN
    IF shown IS NOT NFKC NORMALIZED THEN -- asking costs a quarter of doing it
        shown := left(normalize(shown, NFKC), 8000);
    END IF;
    words := to_tsvector('simple', regexp_replace(
        shown, '[' || in_twos || in_threes || '\u200B-\u200D\u2060\uFE0E\uFE0F/.@+<-]+', ' ', 'g'
    ));
    IF shown !~ ('[' || in_twos || in_threes || ']') THEN
        RETURN words;
    END IF;
    shown := translate(shown, E'\u200B\u200C\u200D\u2060\uFE0E\uFE0F', '');
    FOR size IN 2 .. 3 LOOP
        runs := regexp_replace(shown, '[^' || CASE size WHEN 2 THEN in_twos ELSE in_threes END || ']+', ' ', 'g');
        CONTINUE WHEN runs = ' ';
        FOR start IN 1 .. size LOOP -- with dots, which match spaces too, in a fifth of the time that letters take
            cut := cut || ' ' || regexp_replace(substr(runs, start), repeat('.', size), '\& ', 'g');
        END LOOP;
    END LOOP;
    RETURN words || array_to_tsvector(array_remove(string_to_array(cut, ' '), ''));
END
$$;

-- (Six replace() cost a tenth of one translate().)
CREATE FUNCTION words_of(said text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN octet_length(said) = length(said) THEN to_tsvector('simple', replace(replace(replace(replace(replace(replace(
        left(said, 8000), '-', ' '), '/', ' '), '.', ' '), '@', ' '), '+', ' '), '<', ' '))
    ELSE words_beyond_ascii(said)
END;

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

-- What a text must hold to be found: all of these words, or longer ones that begin like them. A piece (it has no
-- positions) that is part of another says nothing more, and would be found all over the index.
CREATE FUNCTION search_words(wanted text) RETURNS tsquery LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    WITH sought AS MATERIALIZED (SELECT w.lexeme, w.positions IS NULL AS is_piece FROM unnest(words_of(wanted)) AS w)
    SELECT COALESCE(string_agg(
        '''' || replace(replace(s.lexeme, '\', '\\'), '''', '''''') || ''':*', ' & '
    ), '')::tsquery
    FROM sought AS s
    WHERE NOT s.is_piece OR NOT EXISTS (
        SELECT FROM sought AS o
        WHERE o.is_piece AND o.lexeme <> s.lexeme AND strpos(o.lexeme, s.lexeme) > 0
    )
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
