-- What the cache saved, and which configured source the inputs came from (empty for queries, and for calls made
-- before this column was there).
ALTER TABLE ai_usage_tracking
    ADD COLUMN source text NOT NULL DEFAULT '',
    ADD COLUMN tokens_saved bigint NOT NULL DEFAULT 0,
    ADD COLUMN usd_saved numeric NOT NULL DEFAULT 0;

-- For dashboards; `headrace usage` sums the ledger itself. Brought up to date at the end of each run.
DROP VIEW ai_usage_daily;

CREATE MATERIALIZED VIEW ai_usage_daily AS
SELECT client, (occurred_at AT TIME ZONE 'UTC')::date AS day, provider, model, operation, source,
       count(*) FILTER (WHERE input_count > 0) AS calls, count(error_type) AS failed_calls,
       sum(input_count) AS inputs, sum(coalesce(tokens_reported, tokens))::bigint AS tokens,
       sum(reused) AS reused, sum(cost_usd) AS cost_usd, sum(machine_seconds) AS machine_seconds,
       sum(cache_hits) AS cache_hits, sum(tokens_saved)::bigint AS tokens_saved, sum(usd_saved) AS usd_saved
FROM ai_usage_tracking
GROUP BY client, day, provider, model, operation, source;

-- What REFRESH MATERIALIZED VIEW CONCURRENTLY needs.
CREATE UNIQUE INDEX ai_usage_daily_key ON ai_usage_daily (client, day, provider, model, operation, source);
