-- Which endpoints gave the canaries of a space, and when: a search need not ask for them once more. `endpoint` is a
-- digest of all that is configured of an integration, so that a change of it is no proof.
CREATE TABLE endpoint_proofs (
    space_id   text NOT NULL,
    purpose    text NOT NULL CHECK (purpose IN ('document', 'query')),
    endpoint   bytea NOT NULL,
    proven_at  timestamptz NOT NULL,
    PRIMARY KEY (space_id, purpose, endpoint)
);
ALTER TABLE endpoint_proofs ENABLE ROW LEVEL SECURITY;
