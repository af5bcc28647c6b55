"""The use cases: authorise → load → decide → save → record."""

from experiment_domain.usecases.services import Services, Work

__all__ = ["Services", "Work"]
