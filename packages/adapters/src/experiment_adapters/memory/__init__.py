"""The in-memory adapter: enforces what the database enforces, for tests and for embedding without one."""

from experiment_adapters.memory.unit_of_work import MemoryUnitsOfWork

__all__ = ["MemoryUnitsOfWork"]
