-- Vectors by the model input they were computed from. A cache: unlogged, so it costs no write-ahead log and is
-- empty after a crash of the server.
CREATE UNLOGGED TABLE embedding_cache (
    space_id      text NOT NULL,
    client        text NOT NULL,
    key           bytea NOT NULL,
    -- Little-endian floats, then a CRC-32.
    vector        bytea NOT NULL,
    last_used_at  timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    -- With what a row and its index entries take beside the floats.
    size_bytes    integer NOT NULL GENERATED ALWAYS AS (octet_length(vector) + 256) STORED,
    PRIMARY KEY (space_id, client, key)
);
-- Floats do not compress.
ALTER TABLE embedding_cache ALTER COLUMN vector SET STORAGE EXTERNAL;
CREATE INDEX embedding_cache_by_use ON embedding_cache (last_used_at) INCLUDE (size_bytes);
CREATE INDEX embedding_cache_by_expiry ON embedding_cache (expires_at);

ALTER TABLE ai_usage_tracking ADD COLUMN cache_hits integer NOT NULL DEFAULT 0;

CREATE OR REPLACE VIEW ai_usage_daily AS
SELECT client, (occurred_at AT TIME ZONE 'UTC')::date AS day, provider, model, operation,
       count(*) AS calls, count(error_type) AS failed_calls, sum(input_count) AS inputs, sum(tokens) AS tokens,
       sum(reused) AS reused, sum(cost_usd) AS cost_usd, sum(machine_seconds) AS machine_seconds,
       sum(cache_hits) AS cache_hits
FROM ai_usage_tracking
GROUP BY client, day, provider, model, operation;
