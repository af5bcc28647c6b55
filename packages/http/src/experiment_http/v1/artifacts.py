"""Artifacts of runs."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from experiment_domain.artifacts import (
    CHECKSUM_LENGTH,
    KIND_LENGTH,
    LARGEST,
    URI_LENGTH,
    Artifact,
    ArtifactStatus,
)
from experiment_domain.kernel.entity import Page, Position, StatusChange
from experiment_domain.usecases import Work
from experiment_domain.usecases.artifacts import ArtifactUseCases
from experiment_http.answers import EntityView, Items, Paged, created, one
from experiment_http.operations import Operations
from experiment_http.pagination import PageQuery
from experiment_http.structs import given
from experiment_http.v1.values import ENTITY, Json, Name, Request, StatusChangeView, Transition

Uri = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=URI_LENGTH,
        pattern=r"^[A-Za-z][A-Za-z0-9+.-]*:\S+$",
        description="Absolute, and not of a scheme that runs code in a browser.",
    ),
]
Kind = Annotated[str, Meta(min_length=1, max_length=KIND_LENGTH)]
Checksum = Annotated[
    str, Meta(min_length=1, max_length=CHECKSUM_LENGTH, description="One token, best written `algorithm:value`.")
]
Size = Annotated[int, Meta(ge=0, le=LARGEST, description="In bytes.")]
_WRITTEN: Mapping[str, Any] = {
    "name": "Surrogate model",
    "uri": "s3://models/turbine/surrogate-7.onnx",
    "kind": "model",
    "checksum": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "size": 73_400_320,
    "metadata": {"framework": "onnx"},
}


class NewArtifact(Request, frozen=True):
    """A link to be registered. Nothing is fetched from it: checksum and size are the caller's."""

    example: ClassVar[Mapping[str, Any]] = _WRITTEN

    name: Name
    uri: Uri
    kind: Kind | UnsetType | None = UNSET
    checksum: Checksum | UnsetType | None = UNSET
    size: Size | UnsetType | None = UNSET
    metadata: Json | UnsetType = UNSET


class ArtifactView(EntityView, frozen=True):
    """A link to a file or model held elsewhere. What it says never changes; its status does. `size` is in bytes."""

    location: ClassVar[str] = "/artifacts"
    example: ClassVar[Mapping[str, Any]] = {
        **ENTITY,
        "run_id": "0195798a-8d28-7a55-9c3e-3f1a4a6c9d21",
        **_WRITTEN,
        "status": "approved",
    }

    run_id: UUID
    name: str
    uri: str
    kind: str | None
    checksum: str | None
    size: int | None
    metadata: Json
    status: ArtifactStatus


class ArtifactQuery(PageQuery, frozen=True):
    """Which artifacts: every parameter narrows; several values of one are alternatives."""

    approved: (
        Annotated[Literal["true", "false"], Meta(description="Only those that are approved, or only the others.")]
        | None
    ) = None
    status: tuple[ArtifactStatus, ...] = ()
    kind: tuple[Kind, ...] = ()


operations = Operations("artifacts", "Links of runs to files and models held elsewhere, and their approval.")
ONE = one(ArtifactView)


@operations.post("/runs/{run_id:uuid}/artifacts", ArtifactUseCases.register, created(ArtifactView))
async def register_artifact(work: Work, run_id: UUID, body: NewArtifact) -> Artifact:
    """Register an artifact of a run, pending.

    It is not edited afterwards: a link that is wrong is rejected, and another one registered.
    """
    return await work.artifacts.register(run_id, **given(body))


@operations.get("/runs/{run_id:uuid}/artifacts", ArtifactUseCases.page, Paged(view=ArtifactView))
async def list_artifacts(
    work: Work, run_id: UUID, query: ArtifactQuery, after: Position | None = None
) -> Page[Artifact]:
    """List the artifacts of a run, newest first."""
    return await work.artifacts.page(
        run_id,
        approved=None if query.approved is None else query.approved == "true",
        statuses=query.status,
        kinds=query.kind,
        limit=query.limit,
        after=after,
    )


@operations.get("/artifacts/{artifact_id:uuid}", ArtifactUseCases.get, ONE)
async def get_artifact(work: Work, artifact_id: UUID) -> Artifact:
    """Show an artifact."""
    return await work.artifacts.get(artifact_id)


@operations.post("/artifacts/{artifact_id:uuid}/approve", ArtifactUseCases.approve, ONE)
async def approve_artifact(
    work: Work, artifact_id: UUID, if_version: int | None, body: Transition | None = None
) -> Artifact:
    """Approve an artifact: pending → approved. Run cards show it from now on."""
    return await work.artifacts.approve(artifact_id, if_version=if_version, **given(body or Transition()))


@operations.post("/artifacts/{artifact_id:uuid}/reject", ArtifactUseCases.reject, ONE)
async def reject_artifact(
    work: Work, artifact_id: UUID, if_version: int | None, body: Transition | None = None
) -> Artifact:
    """Reject an artifact: pending → rejected."""
    return await work.artifacts.reject(artifact_id, if_version=if_version, **given(body or Transition()))


@operations.post("/artifacts/{artifact_id:uuid}/revoke", ArtifactUseCases.revoke, ONE)
async def revoke_artifact(
    work: Work, artifact_id: UUID, if_version: int | None, body: Transition | None = None
) -> Artifact:
    """Revoke an artifact, for good: approved → revoked. This is possible in archived runs, too."""
    return await work.artifacts.revoke(artifact_id, if_version=if_version, **given(body or Transition()))


@operations.post("/artifacts/{artifact_id:uuid}/resubmit", ArtifactUseCases.resubmit, ONE)
async def resubmit_artifact(
    work: Work, artifact_id: UUID, if_version: int | None, body: Transition | None = None
) -> Artifact:
    """Submit a rejected artifact again: rejected → pending."""
    return await work.artifacts.resubmit(artifact_id, if_version=if_version, **given(body or Transition()))


@operations.get("/artifacts/{artifact_id:uuid}/history", ArtifactUseCases.history, Items(view=StatusChangeView))
async def artifact_history(work: Work, artifact_id: UUID) -> Sequence[StatusChange]:
    """List an artifact's transitions, oldest first."""
    return await work.artifacts.history(artifact_id)
