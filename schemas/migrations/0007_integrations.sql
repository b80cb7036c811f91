CREATE TABLE clients (
    client      text PRIMARY KEY CHECK (client ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO clients (client) SELECT DISTINCT client FROM index_aliases;

-- Endpoints that embed. Secrets by reference only: `env:NAME` or `file:/path`.
CREATE TABLE integrations (
    integration_id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name                          text NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    -- `file`: written from a configuration file, and again whenever that changes; `table`: looked after here.
    origin                        text NOT NULL DEFAULT 'table' CHECK (origin IN ('file', 'table')),
    provider                      text NOT NULL,
    model                         text NOT NULL,
    url                           text,
    api_key                       text CONSTRAINT api_key_is_a_reference
                                      CHECK (api_key ~ '^(env:[A-Za-z_][A-Za-z0-9_]*|file:[^[:cntrl:]]+)$'),
    api_version                   text,
    weights                       text,
    dimensions                    integer CHECK (dimensions > 0),
    price_usd_per_million_tokens  numeric CHECK (price_usd_per_million_tokens >= 0),
    price_as_of                   date,
    -- Limits of a request: max_inputs, max_request_tokens, max_input_tokens.
    model_config                  jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(model_config) = 'object'),
    -- timeout_s, max_concurrency, max_attempts.
    performance_config            jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(performance_config) = 'object'),
    fallback_integration_id       bigint REFERENCES integrations ON DELETE SET NULL
                                      CHECK (fallback_integration_id <> integration_id),
    updated_at                    timestamptz NOT NULL DEFAULT now()
);

-- What a client uses instead of what the configuration file names; it must serve the same embedding space.
CREATE TABLE client_ai_configuration (
    client                    text PRIMARY KEY REFERENCES clients ON DELETE CASCADE,
    embedding_integration_id  bigint NOT NULL REFERENCES integrations,
    updated_at                timestamptz NOT NULL DEFAULT now()
);

-- What may be proposed to a client for a new space, best first.
CREATE TABLE client_ai_preferences (
    client          text NOT NULL REFERENCES clients ON DELETE CASCADE,
    rank            integer NOT NULL CHECK (rank > 0),
    integration_id  bigint NOT NULL REFERENCES integrations ON DELETE CASCADE,
    PRIMARY KEY (client, rank),
    UNIQUE (client, integration_id)
);

-- Circuit breakers, shared by all workers; an endpoint that never failed has no row.
CREATE TABLE endpoint_states (
    integration  text PRIMARY KEY,
    state        text NOT NULL CHECK (state IN ('closed', 'open', 'half-open')),
    -- How often in a row it was opened without an answer in between.
    openings     integer NOT NULL DEFAULT 0,
    -- Not asked before; while half-open, until when the worker that tries it may take.
    retry_at     timestamptz,
    reason       text,
    changed_at   timestamptz NOT NULL DEFAULT now()
);

-- Vectors of known sentences as a space began with them: an endpoint that gives others does not serve it.
CREATE TABLE space_canaries (
    space_id     text NOT NULL,
    purpose      text NOT NULL CHECK (purpose IN ('document', 'query')),
    sentence     text NOT NULL,
    embedding    real[] NOT NULL,
    integration  text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (space_id, purpose, sentence)
);

-- Health is read from the ledger; the calls of local engines have no endpoint.
ALTER TABLE ai_usage_tracking ADD COLUMN integration text;
CREATE INDEX ai_usage_tracking_by_integration ON ai_usage_tracking (integration, occurred_at)
    WHERE integration IS NOT NULL;
