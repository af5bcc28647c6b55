"""The system of record for physical experiments, as a pure library: give `Services` its ports and begin."""

from experiment_domain.kernel.access import Caller, Role, SensorToken, System, User
from experiment_domain.kernel.errors import Refusal
from experiment_domain.usecases import Services, Work

__all__ = ["Caller", "Refusal", "Role", "SensorToken", "Services", "System", "User", "Work"]
