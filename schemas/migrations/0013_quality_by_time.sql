-- Quality by the minute looks at the newest reports of all runs. They are written in the order of their time, of which
-- a range of pages is known by its first and its last.
CREATE INDEX quality_reports_by_time ON quality_reports USING brin (created_at) WITH (pages_per_range = 16);
