-- The truth. Chunk tables are one for each embedding space (a vector column has one dimension), made when a
-- space is registered; everything else is here.

CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE embedding_spaces (
    space_id     text PRIMARY KEY,
    definition   jsonb NOT NULL,
    dimensions   integer NOT NULL CHECK (dimensions > 0),
    vector_type  text NOT NULL CHECK (vector_type IN ('vector', 'halfvec')),
    status       text NOT NULL CHECK (status IN ('building', 'active', 'retired')),
    created_at   timestamptz NOT NULL DEFAULT now()
);

-- What search follows: a client's documents are searched in its active space.
CREATE TABLE index_aliases (
    client     text NOT NULL,
    alias      text NOT NULL,
    space_id   text NOT NULL REFERENCES embedding_spaces,
    PRIMARY KEY (client, alias)
);

CREATE TABLE runs (
    run_id      uuid PRIMARY KEY,
    client      text NOT NULL,
    space_id    text NOT NULL,
    status      text NOT NULL CHECK (status IN ('running', 'done', 'failed', 'interrupted')),
    started_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    error       text
);

-- Outcome of every record read: read, new, changed, unchanged, stale, deleted, dead_lettered, skipped:<reason>.
CREATE TABLE run_counts (
    run_id   uuid NOT NULL REFERENCES runs ON DELETE CASCADE,
    source   text NOT NULL,
    outcome  text NOT NULL,
    records  bigint NOT NULL,
    PRIMARY KEY (run_id, source, outcome)
);

CREATE TABLE source_cursors (
    client      text NOT NULL,
    source      text NOT NULL,
    space_id    text NOT NULL,
    processing  bytea NOT NULL,
    cursor      jsonb,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client, source, space_id)
);

-- A tombstone of a document never seen has a row too, so that an older version arriving late stays out.
CREATE TABLE documents (
    document_id     uuid PRIMARY KEY,
    client          text NOT NULL,
    source          text NOT NULL,
    kind            text NOT NULL,
    native_id       text NOT NULL,
    -- Version, in this order of weight; an older one arriving late is ignored.
    updated_at      timestamptz NOT NULL,
    observed_at     timestamptz NOT NULL,
    payload_digest  bytea NOT NULL,
    project         text NOT NULL DEFAULT '',
    key             text NOT NULL DEFAULT '',
    title           text NOT NULL DEFAULT '',
    url             text NOT NULL DEFAULT '',
    author          text NOT NULL DEFAULT '',
    created_at      timestamptz,
    attributes      jsonb NOT NULL DEFAULT '{}',
    comments_total  integer NOT NULL DEFAULT 0,
    comments_kept   integer NOT NULL DEFAULT 0,
    comments_dropped jsonb NOT NULL DEFAULT '{}',
    deleted_at      timestamptz,
    delete_reason   text,
    stored_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX documents_by_key ON documents (client, key);
CREATE INDEX documents_by_source ON documents (client, source, kind);

-- What a space holds of a document; `fingerprint` decides "unchanged".
CREATE TABLE indexed_documents (
    space_id          text NOT NULL REFERENCES embedding_spaces,
    document_id       uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
    fingerprint       bytea NOT NULL,
    chunks            integer NOT NULL,
    tokens_seen       integer NOT NULL,
    tokens_embedded   integer NOT NULL,
    tokens_truncated  integer NOT NULL,
    indexed_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (space_id, document_id)
);

-- Labels of vectors in FAISS; a changed vector gets a new one, so a row_id never means two vectors.
CREATE SEQUENCE chunk_row_ids AS bigint;

CREATE TABLE document_links (
    document_id  uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
    relation     text NOT NULL,
    target_kind  text NOT NULL CHECK (target_kind IN ('jira_issue', 'github', 'commit')),
    target_key   text NOT NULL,
    PRIMARY KEY (document_id, relation, target_kind, target_key)
);
CREATE INDEX document_links_by_target ON document_links (target_kind, target_key);

CREATE TABLE dead_letters (
    dead_letter_id  uuid PRIMARY KEY,
    client          text NOT NULL,
    source          text NOT NULL,
    document_id     uuid NOT NULL,
    format          text NOT NULL,
    kind            text NOT NULL,
    native_id       text NOT NULL,
    updated_at      timestamptz NOT NULL,
    observed_at     timestamptz NOT NULL,
    locator         text NOT NULL,
    stage           text NOT NULL,
    error_type      text NOT NULL,
    reason          text NOT NULL,
    retriable       boolean NOT NULL,
    payload         bytea NOT NULL,
    attempts        integer NOT NULL DEFAULT 1,
    first_seen_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at    timestamptz NOT NULL DEFAULT now(),
    resolved_at     timestamptz
);
CREATE INDEX dead_letters_by_document ON dead_letters (document_id) WHERE resolved_at IS NULL;

CREATE TABLE ai_usage_tracking (
    event_id         uuid PRIMARY KEY,
    occurred_at      timestamptz NOT NULL,
    client           text NOT NULL,
    run_id           uuid,
    provider         text NOT NULL,
    operation        text NOT NULL,
    model            text NOT NULL,
    space_id         text NOT NULL,
    input_count      integer NOT NULL,
    tokens           bigint NOT NULL,
    tokens_reported  bigint,
    cost_usd         numeric NOT NULL,
    machine_seconds  double precision NOT NULL,
    latency_s        double precision NOT NULL,
    attempt          integer NOT NULL,
    reused           integer NOT NULL,
    error_type       text,
    request_metadata jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX ai_usage_tracking_by_time ON ai_usage_tracking (client, occurred_at);
CREATE INDEX ai_usage_tracking_by_run ON ai_usage_tracking (run_id);

CREATE VIEW ai_usage_daily AS
SELECT client, (occurred_at AT TIME ZONE 'UTC')::date AS day, provider, model, operation,
       count(*) AS calls, count(error_type) AS failed_calls, sum(input_count) AS inputs, sum(tokens) AS tokens,
       sum(reused) AS reused, sum(cost_usd) AS cost_usd, sum(machine_seconds) AS machine_seconds
FROM ai_usage_tracking
GROUP BY client, day, provider, model, operation;

CREATE TABLE quality_reports (
    report_id        uuid PRIMARY KEY,
    created_at       timestamptz NOT NULL DEFAULT now(),
    client           text NOT NULL,
    run_id           uuid,
    space_id         text NOT NULL,
    scope            text NOT NULL CHECK (scope IN ('batch', 'run')),
    vectors          bigint NOT NULL,
    wrong_dimension  bigint NOT NULL,
    not_finite       bigint NOT NULL,
    zero             bigint NOT NULL,
    duplicates       bigint NOT NULL,
    norm_min         double precision NOT NULL,
    norm_mean        double precision NOT NULL,
    norm_max         double precision NOT NULL,
    norm_std         double precision NOT NULL,
    quality_score    double precision NOT NULL
);
CREATE INDEX quality_reports_by_run ON quality_reports (run_id, scope);
