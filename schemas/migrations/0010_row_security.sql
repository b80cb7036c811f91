-- Which database roles may read which clients; kept by `headrace readers`. Policies ask this table by role membership,
-- never a session setting: anyone can SET a setting, nobody a membership.
CREATE TABLE client_readers (
    reader      regrole NOT NULL,
    client      text NOT NULL,
    granted_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (reader, client)
);
ALTER TABLE client_readers ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON client_readers FOR SELECT USING (pg_has_role(reader, 'USAGE'));

-- Anyone who may connect may LISTEN, so once there is a reader, changes are told on a channel of their client's own,
-- whose name is drawn by lot.
CREATE TABLE change_channels (
    client   text PRIMARY KEY,
    channel  text NOT NULL UNIQUE DEFAULT 'headrace_changes_' || replace(gen_random_uuid()::text, '-', '')
);

-- Lets a table's rows be seen by readers of their client alone, and by the owner, whom no policy concerns. Seeing
-- needs a grant besides. In plpgsql, so that the policy's subquery is bound to this schema's table when it is made.
CREATE FUNCTION headrace_protect(protected regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', protected);
    EXECUTE format(
        'CREATE POLICY of_readers ON %s FOR SELECT USING (client = ANY (ARRAY('
        'SELECT r.client FROM client_readers AS r WHERE pg_has_role(r.reader, ''USAGE''))))', protected
    );
END $$;
REVOKE EXECUTE ON FUNCTION headrace_protect FROM PUBLIC;

DO $$
DECLARE protected regclass;
BEGIN
    FOREACH protected IN ARRAY ARRAY[
        'index_aliases', 'runs', 'source_cursors', 'source_states', 'documents', 'dead_letters', 'ai_usage_tracking',
        'quality_reports', 'embedding_cache', 'webhook_deliveries', 'backfills', 'clients', 'client_ai_configuration',
        'client_ai_preferences', 'ai_rate_limits', 'ai_budgets', 'ai_allowances', 'ai_budget_alerts', 'change_channels'
    ]::regclass[] || ARRAY(
        SELECT oid::regclass FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relname ~ '^chunks_[0-9a-f]{16}$'
    ) LOOP
        PERFORM headrace_protect(protected);
    END LOOP;
END $$;

-- Rows of no client's own: what may be seen follows from another table, or nothing may.
ALTER TABLE indexed_documents ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_readers ON indexed_documents FOR SELECT USING (
    EXISTS (SELECT FROM documents AS d WHERE d.document_id = indexed_documents.document_id)
);
ALTER TABLE document_links ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_readers ON document_links FOR SELECT USING (
    EXISTS (SELECT FROM documents AS d WHERE d.document_id = document_links.document_id)
);
ALTER TABLE embedding_spaces ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_readers ON embedding_spaces FOR SELECT USING (
    EXISTS (SELECT FROM index_aliases AS a WHERE a.space_id = embedding_spaces.space_id)
);
ALTER TABLE run_counts ENABLE ROW LEVEL SECURITY;
ALTER TABLE integrations ENABLE ROW LEVEL SECURITY;
ALTER TABLE endpoint_states ENABLE ROW LEVEL SECURITY;
ALTER TABLE space_canaries ENABLE ROW LEVEL SECURITY;

-- A reader's own searches stand in the ledger: at no cost, now, in nobody else's name, and with nothing in them that
-- whoever looks at costs would rather not have on his screen.
CREATE POLICY queries_of_readers ON ai_usage_tracking FOR INSERT WITH CHECK (
    client = ANY (ARRAY(SELECT r.client FROM client_readers AS r WHERE pg_has_role(r.reader, 'USAGE')))
    AND space_id IN (SELECT a.space_id FROM index_aliases AS a)
    AND operation = 'embed_query' AND provider = 'local' AND integration IS NULL AND run_id IS NULL AND source = ''
    AND model ~ '^[[:alnum:]._/:@-]{1,200}$' AND coalesce(error_type, '') ~ '^[[:alnum:]]{0,64}$'
    AND input_count = 1 AND tokens >= 0 AND request_metadata = '{}'
    AND cost_usd = 0 AND usd_saved = 0 AND occurred_at BETWEEN now() - interval '1 hour' AND now() + interval '1 hour'
);

-- Policies do not reach materialised views: theirs is the owner's alone, and readers have this one. Its condition is
-- spelled out, as a view's own tables are read with its owner's rights.
CREATE VIEW client_usage_daily WITH (security_barrier) AS
SELECT client, day, provider, model, operation, source, calls, failed_calls, inputs, tokens, reused, cost_usd,
       machine_seconds, cache_hits, tokens_saved, usd_saved
FROM ai_usage_daily
WHERE client = ANY (ARRAY(SELECT r.client FROM client_readers AS r WHERE pg_has_role(r.reader, 'USAGE')));
