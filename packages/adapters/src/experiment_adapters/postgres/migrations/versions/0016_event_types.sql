-- Events by their type: who asks for rare ones must not read all others.

CREATE INDEX outbox_by_type ON outbox (type, position);
