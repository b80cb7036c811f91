-- How many values of each kind were replaced by placeholders before the document was stored; never a value.
ALTER TABLE documents ADD COLUMN redactions jsonb NOT NULL DEFAULT '{}';
