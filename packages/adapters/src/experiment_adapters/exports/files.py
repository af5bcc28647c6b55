"""Where the parts of exports are kept: a directory, an S3-compatible storage, or memory, by one library for all."""

from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, S3Store

from experiment_domain.exports.files import ExportFiles
from experiment_domain.kernel.errors import Unavailable

PIECE = 1 << 20
"""Bytes of the pieces in which a part is read, about."""


class ObjectFiles(ExportFiles):
    """Parts as objects of a store of `obstore`, under their names."""

    def __init__(self, store: Any) -> None:
        self._store = store

    @classmethod
    def in_memory(cls) -> "ObjectFiles":
        """For tests and embedding: gone with the process."""
        return cls(MemoryStore())

    async def put(self, name: str, data: bytes) -> None:
        # In one request: an upload in several that is broken off leaves behind what no list of objects shows.
        with _told():
            await obstore.put_async(self._store, name, data, use_multipart=False)

    async def chunks(self, name: str) -> AsyncGenerator[bytes]:
        with _told():
            found = await obstore.get_async(self._store, name)
            async for piece in found.stream(min_chunk_size=PIECE):
                yield bytes(piece)

    async def names(self, folder: str) -> Sequence[str]:
        found: list[str] = []
        with _told():
            async for listed in obstore.list(self._store, prefix=folder):
                found += [each["path"] for each in listed]
        return found

    async def delete(self, names: Collection[str]) -> None:
        if names:
            with _told(), suppress(FileNotFoundError):
                await obstore.delete_async(self._store, list(names))


class DirectoryFiles(ObjectFiles):
    """Parts as files of a directory, which is made where there is none."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        super().__init__(LocalStore(prefix=directory))
        self._directory = directory

    async def names(self, folder: str) -> Sequence[str]:
        # What a process that was killed had begun to write has a name of its own, which the store does not list.
        with _told():
            return [str(path.relative_to(self._directory)) for path in sorted((self._directory / folder).glob("*"))]

    async def delete(self, names: Collection[str]) -> None:
        with _told():
            for name in names:
                (self._directory / name).unlink(missing_ok=True)
            for folder in {(self._directory / name).parent for name in names}:
                with suppress(OSError):  # the parts of a file are still in it
                    folder.rmdir()


def files_at(url: str) -> ExportFiles:
    """The place that a URL names: `file:///directory`, or `s3://bucket/prefix`.

    Region, endpoint and credentials of the latter are what the environment says in the variables of AWS (`AWS_…`).
    Raises `ValueError`, or what the file system says.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return DirectoryFiles(Path(unquote(parts.path)))
    return ObjectFiles(
        S3Store.from_url(
            url,
            # Which scheme is spoken is said by the endpoint; without one, it is https.
            client_options={
                "allow_http": True,
                "timeout": timedelta(seconds=30),
                "connect_timeout": timedelta(seconds=5),
            },
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
        )
    )


@contextmanager
def _told() -> Iterator[None]:
    """Raise `Unavailable` for whatever goes wrong there; what that was is for the log, and not for callers."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise Unavailable("The place where exports are kept does not do what it should right now.") from error
