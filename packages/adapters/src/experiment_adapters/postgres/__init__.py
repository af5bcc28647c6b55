"""PostgreSQL: every port of the domain, on psycopg 3 in pipeline mode."""

from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork

__all__ = ["PostgresUnitsOfWork"]
