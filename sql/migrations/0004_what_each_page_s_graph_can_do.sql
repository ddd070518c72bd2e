-- What Graph was found to do for a Page where nobody could confirm it: asked once, and again by whoever wants to know.
CREATE TABLE page_capabilities (
    page_id text COLLATE "C" NOT NULL REFERENCES facebook_pages,
    name text NOT NULL CHECK (name <> ''),
    answer text NOT NULL,
    detail text, -- NULL: nothing to add
    asked_at timestamptz NOT NULL,
    PRIMARY KEY (page_id, name)
);
