-- The plan that a backfill keeps to, until it is done.
CREATE TABLE backfills (
    client       text NOT NULL,
    space_id     text NOT NULL,
    -- Digest of the sources and of all that is done to their records: another one is another backfill.
    definition   bytea NOT NULL,
    -- The plan as it was shown.
    plan         jsonb NOT NULL,
    max_tokens   bigint NOT NULL,
    planned_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    PRIMARY KEY (client, space_id)
);
