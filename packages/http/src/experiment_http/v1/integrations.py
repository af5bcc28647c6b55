"""Callbacks of other services, each known by its signature."""

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from attrs import evolve
from msgspec import UNSET, UnsetType

from experiment_domain.artifacts import Artifact, ArtifactStatus
from experiment_domain.kernel.access import Integration
from experiment_domain.usecases import Work
from experiment_domain.usecases.artifacts import ArtifactUseCases
from experiment_http.answers import one
from experiment_http.bodies import json_body
from experiment_http.operations import Operations
from experiment_http.signatures import Signatory
from experiment_http.structs import given
from experiment_http.v1.artifacts import ArtifactView, Checksum, Size
from experiment_http.v1.values import ENTITY, Reason, Request

SHORT = 1 << 16
"""The most bytes of a body that is read before it is known who sent it."""
ARTIFACT_SERVICE = Signatory(
    principal=Integration(name="artifact-service"),
    setting=lambda settings: settings.artifact_webhook_secrets,
)


class ArtifactReport(Request, frozen=True):
    """The status that an artifact has now, why, and what was looked at. `size` is in bytes."""

    example: ClassVar[Mapping[str, Any]] = {
        "artifact_id": ENTITY["id"],
        "status": "approved",
        "reason": "scanned and signed",
        "checksum": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "size": 73_400_320,
    }

    artifact_id: UUID
    status: ArtifactStatus
    reason: Reason | UnsetType | None = UNSET
    checksum: Checksum | UnsetType | None = UNSET
    size: Size | UnsetType | None = UNSET


operations = Operations("integrations", "Signed callbacks of other services.")


@operations.post(
    "/integrations/artifacts",
    ArtifactUseCases.report,
    one(ArtifactView),
    body=evolve(json_body(ArtifactReport), limit=SHORT),
    signed_by=ARTIFACT_SERVICE,
    refuses=(404,),
)
async def report_artifact(work: Work, body: ArtifactReport) -> Artifact:
    """Report the status of an artifact, as the Artifact Service.

    What it approves must be what was registered (`checksum_mismatch`, `size_mismatch`), as far as both say.
    """
    return await work.artifacts.report(**given(body))
