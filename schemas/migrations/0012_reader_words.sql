-- How a reader searches by words. Postgres asks a policy before any operator that is not leak-proof, and `@@` is none, so
-- no index on words serves a table under one. A client that has readers gets an index of its own chunks alone, and a
-- view that asks nothing else: the words come by a setting, whose chunks they are looked for in does not. The index of
-- all clients would tell, by EXPLAIN and the server's statistics, how many chunks of others hold a word; as an index on
-- the words without their places this one is no match for it, whatever the planner thinks of the two.
CREATE FUNCTION headrace_open_words(chunks regclass, of_client text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    opened text := (SELECT relname FROM pg_class WHERE oid = chunks)
        || '_' || left(encode(sha256(convert_to(of_client, 'UTF8')), 'hex'), 16);
BEGIN
    IF to_regclass(quote_ident(opened)) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format(
        'CREATE INDEX %I ON %s USING gin (strip(search)) WHERE client = %L', opened || '_words', chunks, of_client
    );
    -- Membership besides: a careless GRANT shows nothing. A view's own tables are read with its owner's rights.
    EXECUTE format(
        'CREATE VIEW %I WITH (security_barrier) AS'
        ' SELECT q.place, c.row_id, c.document_id, c.client, c.tokens, c.search'
        ' FROM unnest(nullif(current_setting(''headrace.words'', true), '''')::tsquery[])'
        ' WITH ORDINALITY AS q (word, place) JOIN %s AS c ON strip(c.search) @@ q.word'
        ' WHERE c.client = %L AND %L = ANY (ARRAY('
        'SELECT r.client FROM client_readers AS r WHERE pg_has_role(r.reader, ''USAGE'')))',
        opened, chunks, of_client, of_client
    );
END $$;
REVOKE EXECUTE ON FUNCTION headrace_open_words FROM PUBLIC;

DO $$
DECLARE
    known record;
    opened text;
BEGIN
    FOR known IN
        SELECT c.oid::regclass AS chunks, c.relname, r.client, r.reader FROM client_readers AS r, pg_class AS c
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
            AND c.relname ~ '^chunks_[0-9a-f]{16}$' AND EXISTS (SELECT FROM pg_roles WHERE oid = r.reader)
    LOOP
        PERFORM headrace_open_words(known.chunks, known.client);
        opened := known.relname || '_' || left(encode(sha256(convert_to(known.client, 'UTF8')), 'hex'), 16);
        EXECUTE format('GRANT SELECT ON %I TO %s', opened, known.reader);
    END LOOP;
END $$;
