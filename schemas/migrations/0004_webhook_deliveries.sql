-- What deliveries of webhooks name, kept until it was looked at again at its source. Only ids and keys: the text of a
-- deleted document must not live on here.
CREATE TABLE webhook_deliveries (
    delivery_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client        text NOT NULL,
    source        text NOT NULL,
    -- The provider's own id, the same when it delivers again.
    provider_id   text NOT NULL,
    event         text NOT NULL,
    -- [[kind, native id, key], ...]; empty asks for a poll of the source.
    named         jsonb NOT NULL,
    status        text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'done', 'failed')),
    attempts      integer NOT NULL DEFAULT 0,
    received_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Not looked at before: put off after a failure.
    due_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at      timestamptz,
    failure       text,
    UNIQUE (client, source, provider_id)
);
CREATE INDEX webhook_deliveries_pending ON webhook_deliveries (client, source, delivery_id) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_ended ON webhook_deliveries (ended_at) WHERE status <> 'pending';
