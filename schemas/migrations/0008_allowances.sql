-- What a client may use at a provider; the provider '*' stands for all of them together. Null is no limit. Rows of
-- origin 'file' follow the configuration file; those of origin 'table' are administered here.
CREATE TABLE ai_rate_limits (
    client               text NOT NULL,
    provider             text NOT NULL DEFAULT '*',
    requests_per_minute  bigint CHECK (requests_per_minute > 0),
    tokens_per_hour      bigint CHECK (tokens_per_hour > 0),
    -- A day of UTC.
    cost_per_day_usd     numeric CHECK (cost_per_day_usd >= 0 AND cost_per_day_usd <= 1000000),
    origin               text NOT NULL DEFAULT 'table' CHECK (origin IN ('file', 'table')),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client, provider),
    CHECK (num_nonnulls(requests_per_minute, tokens_per_hour, cost_per_day_usd) > 0)
);

CREATE TABLE ai_budgets (
    client           text NOT NULL,
    provider         text NOT NULL DEFAULT '*',
    -- A calendar month of UTC.
    monthly_usd      numeric NOT NULL CHECK (monthly_usd >= 0 AND monthly_usd <= 1000000),
    -- Share of it at which an alert is raised.
    alert_threshold  numeric NOT NULL DEFAULT 0.8 CHECK (alert_threshold > 0 AND alert_threshold <= 1),
    -- Whether requests beyond it are refused; otherwise it only alerts.
    hard_limit       boolean NOT NULL DEFAULT true,
    origin           text NOT NULL DEFAULT 'table' CHECK (origin IN ('file', 'table')),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client, provider)
);

-- What a client has used and reserved, locked for each request; see transforms/allowance/book.py. Where Redis keeps
-- the books, only `in_flight_until` is kept here: until when requests may be under way that a new book would miss.
CREATE TABLE ai_allowances (
    client           text PRIMARY KEY,
    book             jsonb,
    in_flight_until  timestamptz
) WITH (fillfactor = 50);

-- One row for each level of a budget that was crossed in a month: whoever inserts it tells the others.
CREATE TABLE ai_budget_alerts (
    client       text NOT NULL,
    provider     text NOT NULL,
    month        date NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('threshold', 'used_up')),
    level_usd    numeric NOT NULL,
    monthly_usd  numeric NOT NULL,
    spent_usd    numeric NOT NULL,
    raised_at    timestamptz NOT NULL,
    PRIMARY KEY (client, provider, month, kind, level_usd)
);
