"""Test data in bulk: a project with as many runs as wanted, and a smaller one beside it, through COPY."""

from experiment_adapters.postgres.seed.copying import Seeded, seed_runs

__all__ = ["Seeded", "seed_runs"]
