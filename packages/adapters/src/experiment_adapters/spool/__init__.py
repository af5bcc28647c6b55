"""The spool on disk: an append-only log of batches, shared by the API processes of one machine."""
