"""The worker: everything that happens without a person waiting."""
