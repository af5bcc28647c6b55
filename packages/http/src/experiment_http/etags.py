"""Entity tags: the version of an entity in quotes, and the conditions that callers put on it."""

import re
from collections.abc import Collection
from typing import Self

from experiment_http.problems import Malformed

_TAG = re.compile(rb'\s*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*(?:,|$)')
_VERSION = re.compile(rb"[1-9][0-9]{0,17}")


def etag(version: int) -> str:
    """The tag of a version."""
    return f'"{version}"'


class OneOf(int):
    """Several versions where the domain takes one: equal to each of them, to none if there are none."""

    versions: frozenset[int]

    def __new__(cls, versions: Collection[int]) -> Self:
        """A number that stands for all of `versions`."""
        made = super().__new__(cls, min(versions, default=0))
        made.versions = frozenset(versions)
        return made

    def __eq__(self, other: object) -> bool:
        return other in self.versions

    def __ne__(self, other: object) -> bool:
        return other not in self.versions

    def __hash__(self) -> int:
        return hash(self.versions)


def if_match(header: bytes | None) -> int | None:
    """The version that `If-Match` asks for, None where any will do. Raises `Malformed`.

    Comparison is strong: weak tags, and tags that are no versions of ours, match nothing.
    """
    if header is None or header.strip() == b"*":
        return None
    versions = [int(tag) for weak, tag in _tags(header, "If-Match") if not weak and _VERSION.fullmatch(tag)]
    return versions[0] if len(versions) == 1 else OneOf(versions)


def known(header: bytes | None) -> frozenset[str]:
    """The tags that `If-None-Match` names, without their quotes. Raises `Malformed`."""
    if header is None or header.strip() == b"*":
        return frozenset()
    return frozenset(tag.decode("latin-1") for _, tag in _tags(header, "If-None-Match"))


def is_unchanged(header: bytes, tag: str) -> bool:
    """Whether `If-None-Match` names this tag, so that the caller has the answer already. Comparison is weak."""
    return header.strip() == b"*" or tag.strip('"') in known(header)


def _tags(header: bytes, name: str) -> list[tuple[bool, bytes]]:
    tags: list[tuple[bool, bytes]] = []
    place = 0
    while place < len(header):
        found = _TAG.match(header, place)
        if found is None:
            break
        tags.append((bool(found[1]), found[2]))
        place = found.end()
    if not tags or place < len(header) or header.rstrip().endswith(b","):
        raise Malformed("malformed_header", f'{name} must be "*" or entity tags in double quotes.')
    return tags
