-- Keys of the API, besides OPS_API_KEY: only what proves a key is stored, never the key.
CREATE TABLE api_keys (
    id text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[0-9a-f]{12}$'), -- a part of the key itself, and no secret
    name text NOT NULL CHECK (name <> ''),
    role text NOT NULL CHECK (role IN ('read', 'operate', 'admin')),
    digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32), -- SHA-256 of the key, which is random and long
    created_at timestamptz NOT NULL,
    created_by text NOT NULL CHECK (created_by <> ''), -- `cli`, or the id of the key that made it
    revoked_at timestamptz -- NULL while it is good
);
