"""Where exports are kept and for how long, and how much may be asked for."""

from datetime import timedelta

from attrs import frozen

from experiment_domain.exports.files import ExportPolicy

USUAL = ExportPolicy()


@frozen(kw_only=True)
class ExportSettings:
    """Without a URL there are no exports. `keep` is in seconds."""

    url: str | None = None
    keep: float = USUAL.kept_for.total_seconds()
    per_user: int = USUAL.per_user
    max_readings: int = USUAL.readings

    @property
    def policy(self) -> ExportPolicy:
        """The same in the words of the domain."""
        return ExportPolicy(kept_for=timedelta(seconds=self.keep), per_user=self.per_user, readings=self.max_readings)
