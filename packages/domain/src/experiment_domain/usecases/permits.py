"""Default deny: a use case names the permission it needs, and cannot end well without having asked for it."""

from collections.abc import Awaitable, Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

from experiment_domain.kernel.access import Grants, Permission, SensorToken, System, User
from experiment_domain.kernel.entity import Entity
from experiment_domain.kernel.errors import Forbidden, NotFound
from experiment_domain.usecases.recording import Recorder

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=Entity)
S = TypeVar("S", bound="UseCases")


class Permit:
    """The permission of one call. Every use case must use it before it returns."""

    def __init__(self, permission: Permission, recorder: Recorder) -> None:
        self.permission = permission
        self.used = False
        self._recorder = recorder

    async def grants(self) -> Grants:
        """The caller's roles."""
        return await self._recorder.grants()

    async def require(self, project_id: UUID, noun: str) -> None:
        """Refuse unless the permission is granted in the project that `noun` belongs to."""
        grants = await self.grants()
        self.used = True
        grants.require(self.permission, project_id, noun)

    async def holds(self, entity: E | None, noun: str, version: int | None = None) -> E:
        """The entity, if there is one, the permission is granted, and it is at the `version` the caller read."""
        if entity is None:
            # Who is not known at all learns nothing, not even that there is no such thing.
            await self.grants()
            self.used = True
            raise NotFound(noun)
        await self.require(entity.project_id, noun)
        entity.expect(version)
        return entity

    async def projects(self) -> frozenset[UUID]:
        """The projects in which the permission is granted."""
        grants = await self.grants()
        await self.user()
        return frozenset(project_id for project_id in grants.roles if grants.allows(self.permission, project_id))

    async def user(self) -> User:
        """The caller as a user. Raises `Forbidden` for a sensor."""
        principal = self._recorder.caller.principal
        self.used = True
        if not isinstance(principal, User):
            await self.grants()
            raise Forbidden("This is for users; a sensor's token is for sending readings and heartbeats.")
        return principal

    def service(self) -> None:
        """Refuse with `Forbidden` anybody but the service itself."""
        self.used = True
        if not isinstance(self._recorder.caller.principal, System):
            raise Forbidden("Only the service itself may do this.")

    def token(self) -> bytes:
        """The hash of the calling sensor's token, for use cases that look the sensor up themselves."""
        principal = self._recorder.caller.principal
        self.used = True
        if not isinstance(principal, SensorToken):
            raise Forbidden("Only a sensor's own token may do this.")
        return principal.token_hash

    async def sensor(self, sensor_id: UUID | None = None) -> UUID:
        """The sensor that is calling. Raises `Forbidden` for anybody else, or for another sensor's id."""
        grants = await self.grants()
        self.used = True
        if grants.sensor_id is None:
            raise Forbidden("Only a sensor's own token may do this.")
        if sensor_id not in (None, grants.sensor_id):
            raise NotFound("sensor")
        return grants.sensor_id


def requires(
    permission: Permission,
) -> Callable[[Callable[Concatenate[S, Permit, P], Awaitable[R]]], Callable[Concatenate[S, P], Awaitable[R]]]:
    """Declare what a use case needs. It gets a `Permit` as its first argument and has to use it."""

    def declare(
        use_case: Callable[Concatenate[S, Permit, P], Awaitable[R]],
    ) -> Callable[Concatenate[S, P], Awaitable[R]]:
        @wraps(use_case)
        async def permitted(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
            permit = Permit(permission, self.recorder)
            result = await use_case(self, permit, *args, **kwargs)
            if not permit.used:
                raise RuntimeError(f"{use_case.__qualname__} never asked whether it may {permission}")
            return result

        permitted.permission = permission  # pyright: ignore[reportAttributeAccessIssue]
        return permitted

    return declare


class UseCases:
    """The use cases of one noun. A public coroutine without a declared permission is refused at definition."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.uow = recorder.uow

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, member in vars(cls).items():
            if not name.startswith("_") and iscoroutinefunction(member) and not hasattr(member, "permission"):
                raise TypeError(f"{cls.__name__}.{name} declares no permission")
