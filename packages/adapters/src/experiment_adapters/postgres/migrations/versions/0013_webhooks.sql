-- Webhooks: subscriptions to events, their deliveries, and the log of the attempts.

CREATE TABLE webhook_subscriptions (
    id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    created_by text NOT NULL,
    url text NOT NULL,
    event_types text[] NOT NULL,
    description text,
    status text NOT NULL CHECK (status IN ('active', 'paused', 'disabled')),
    sealed_secret bytea NOT NULL,
    previous_sealed_secret bytea,
    previous_secret_dies_at timestamptz,
    failures integer NOT NULL,
    failing_since timestamptz,
    blocked_until timestamptz
) WITH (fillfactor = 70);
CREATE INDEX webhook_subscriptions_by_creation ON webhook_subscriptions (project_id, created_at, id);
COMMENT ON COLUMN webhook_subscriptions.sealed_secret IS 'Encrypted under a key that is derived from the secret key of the service.';
COMMENT ON COLUMN webhook_subscriptions.failures IS 'Attempts in a row that failed, the first of them at failing_since; until blocked_until there is none. Deliveries change these within the page, and leave version as it is.';

CREATE TABLE webhook_deliveries (
    id uuid PRIMARY KEY,
    project_id uuid NOT NULL,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    created_by text NOT NULL,
    subscription_id uuid NOT NULL REFERENCES webhook_subscriptions ON DELETE CASCADE,
    event_id uuid NOT NULL,
    event_type text NOT NULL,
    body text NOT NULL,
    status text NOT NULL CHECK (status IN ('pending', 'delivered', 'dead')),
    attempts integer NOT NULL,
    next_attempt_at timestamptz,
    finished_at timestamptz,
    last_status integer,
    reason text,
    due_at timestamptz NOT NULL,
    claimed_by uuid,
    claimed_until timestamptz,
    CONSTRAINT webhook_deliveries_once UNIQUE (subscription_id, event_id)
);
CREATE INDEX webhook_deliveries_by_creation ON webhook_deliveries (subscription_id, created_at, id);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (subscription_id, due_at, id) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_under_way ON webhook_deliveries (subscription_id) WHERE claimed_by IS NOT NULL;
CREATE INDEX webhook_deliveries_dead ON webhook_deliveries (subscription_id, finished_at, id) WHERE status = 'dead';
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (created_at);
COMMENT ON COLUMN webhook_deliveries.body IS 'What is sent, the same at every attempt.';
COMMENT ON COLUMN webhook_deliveries.due_at IS 'next_attempt_at, or long ago where it is due at once.';
COMMENT ON COLUMN webhook_deliveries.claimed_by IS 'The worker that makes an attempt; null: nobody.';
COMMENT ON COLUMN webhook_deliveries.claimed_until IS 'By the clock of this server, until when nobody else may make one.';

CREATE TABLE webhook_attempts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    delivery_id uuid NOT NULL REFERENCES webhook_deliveries ON DELETE CASCADE,
    at timestamptz NOT NULL,
    status_code integer,
    error text,
    latency float8 NOT NULL,
    answer text NOT NULL
);
CREATE INDEX webhook_attempts_of_delivery ON webhook_attempts (delivery_id, id);
COMMENT ON TABLE webhook_attempts IS 'What came of each attempt to deliver; latency in seconds, of the answer the beginning.';

CREATE TABLE webhook_cursor (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    place text NOT NULL
);
INSERT INTO webhook_cursor (place) VALUES (pg_current_snapshot()::text);
COMMENT ON TABLE webhook_cursor IS 'Up to which place in the outbox deliveries have been made.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_subscriptions, webhook_deliveries TO experiment_app;
        GRANT SELECT, INSERT ON webhook_attempts TO experiment_app;
        GRANT SELECT, UPDATE ON webhook_cursor TO experiment_app;
    END IF;
END
$$;
