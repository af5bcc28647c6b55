"""Writing exports: part by part, each read, stored and noted by itself, so that whatever ends it loses one part."""

import asyncio
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from experiment_domain.exports.files import ExportFormat
from experiment_domain.exports.jobs import Export, ExportPart
from experiment_domain.kernel.access import System
from experiment_domain.kernel.errors import Forbidden, NotFound, Refusal, Unavailable
from experiment_domain.usecases.export_walks import Reading
from experiment_domain.usecases.services import Services
from experiment_domain.usecases.working import TURN, take_turns

READS_FOR = 2.0
"""Seconds after which a part is written of what was read, be it little: many small sessions take their time."""
STORES_WITHIN = 10.0
"""Seconds in which a part is stored; a claim lasts longer than reading and storing one."""

Failed = Callable[[Export, Exception], object]


async def work_off_exports(
    services: Services,
    *,
    seconds: float = 60.0,
    turn: float = TURN,
    stopping: Callable[[], bool] = lambda: False,
    failed: Failed = lambda _export, _error: None,
) -> int:
    """Write exports until none is due, `seconds` are over, or it is `stopping`; how many came to an end.

    They take turns of `turn` seconds. `failed` hears of errors of the work itself. Raises `Unavailable` where the
    database is away: whatever was claimed can be claimed again after a while.
    """
    worker = services.ids.new()

    async def claim() -> Export | None:
        async with services.begin(System()) as work:
            return await work.exports.claim(worker)

    async def step(export: Export) -> Export | None:
        return await _stepped(services, export, worker, failed)

    async def leave(export: Export) -> None:
        async with services.begin(System()) as work:
            await work.exports.leave(export.id, worker)

    return await take_turns(claim, step, leave, seconds=seconds, turn=turn, stopping=stopping)


async def tidy_exports(services: Services, is_over: Callable[[], bool]) -> int:
    """Let exports expire, and remove what is no part of a file any more, or never was; of how many exports."""
    async with services.begin(System()) as work:
        await work.exports.expire()
    async with services.begin(System()) as work:
        untidy = await work.exports.untidy()
    tidied = 0
    for file in untidy:
        if is_over():
            break
        kept = {part.name for part in file.parts}
        names = await services.export_files.names(file.export.folder)
        await services.export_files.delete([name for name in names if name not in kept])
        async with services.begin(System()) as work:
            await work.exports.tidied(file.export)
        tidied += 1
    return tidied


async def _stepped(services: Services, export: Export, worker: UUID, failed: Failed) -> Export | None:
    try:
        return await _step(services, export, worker)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is noted, and the others are written
        is_final = isinstance(error, Refusal) and not isinstance(error, Unavailable)
        if not is_final:
            failed(export, error)
        said = error.detail if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        async with services.begin(System()) as work:
            if is_final:
                return await work.exports.fail(export.id, worker, said)
            return await work.exports.stumble(export.id, worker, said)


async def _step(services: Services, export: Export, worker: UUID) -> Export | None:
    if export.sessions is None:
        async with services.begin(System()) as work:
            return await work.exports.plan(export.id, worker)
    written = services.export_formats[export.format]
    if export.is_read:
        return await _finish(services, export, worker, written)
    reading = await _read(services, export, written.readings)
    part = None
    if reading.stretches:
        part = await _store(services, export, await asyncio.to_thread(_encoded, written, export, reading))
    async with services.begin(System()) as work:
        return await work.exports.advance(export.id, worker, reading, part)


async def _read(services: Services, export: Export, readings: int) -> Reading:
    reads_until = time.monotonic() + READS_FOR
    try:
        async with services.read(export.reader) as work:
            return await work.exports.read(export, readings=readings, is_over=lambda: time.monotonic() >= reads_until)
    except NotFound:
        raise Refusal("access_lost", f"{export.created_by} has no access to this project any more.") from None
    except Forbidden:
        said = f"The policy of this project does not let {export.created_by} read raw values any more."
        raise Refusal("access_lost", said) from None


def _encoded(written: ExportFormat, export: Export, reading: Reading) -> tuple[bytes, bytes | None]:
    begun = b"" if export.bytes_written else written.begun()
    part = written.part(reading.stretches, export.bytes_written + len(begun))
    return begun + part.data, part.note


async def _finish(services: Services, export: Export, worker: UUID, written: ExportFormat) -> Export | None:
    async with services.begin(System()) as work:
        notes: Sequence[bytes] = await work.exports.notes(export.id)
    begun = b"" if export.bytes_written else written.begun()
    ended = begun + await asyncio.to_thread(written.ended, notes)
    part = await _store(services, export, (ended, None)) if ended else None
    async with services.begin(System()) as work:
        return await work.exports.finish(export.id, worker, part)


async def _store(services: Services, export: Export, content: tuple[bytes, bytes | None]) -> ExportPart:
    data, note = content
    # A name that nobody else uses: of two workers, the one that has lost its claim writes over nothing.
    name = f"{export.folder}/{export.parts_written:06d}-{services.ids.new()}"
    try:
        async with asyncio.timeout(STORES_WITHIN):
            await services.export_files.put(name, data)
    except TimeoutError:
        raise Unavailable(f"A part of {len(data):,} bytes was not stored within {STORES_WITHIN:g} seconds.") from None
    return ExportPart(number=export.parts_written, name=name, size=len(data), note=note)
