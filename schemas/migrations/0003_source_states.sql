-- How it stands with each source, for whoever asks while `headrace watch` runs or after it died.
CREATE TABLE source_states (
    client                text NOT NULL,
    source                text NOT NULL,
    -- The last look, at whatever it found; what it is doing now, if it is; the next look that is planned.
    last_polled_at        timestamptz,
    busy_since            timestamptz,
    busy_with             text CHECK (busy_with IN ('poll', 'deliveries', 'reconcile')),
    last_heard_at         timestamptz,
    next_poll_at          timestamptz,
    last_success_at       timestamptz,
    last_change_at        timestamptz,
    last_reconciled_at    timestamptz,
    consecutive_failures  integer NOT NULL DEFAULT 0,
    last_error            text,
    reconcile_error       text,
    waiting_until         timestamptz,
    waiting_for           text,
    PRIMARY KEY (client, source)
);
