"""Fifty clients on one run and its neighbours at once: nothing is lost or doubled, and nobody hears of a deadlock."""

import asyncio
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import count, pairwise
from typing import Any

import httpx
import pytest
from attrs import define, field

from contention import contended
from experiment_domain.unit_of_work import UnitsOfWork
from http_api import Client, app_over, token_of
from keeping import ask

CLIENTS = 50
OPERATIONS = 20
NEIGHBOURS = 8
SENSORS = 4
ENDS = ("finished", "failed", "archived")
REFUSED = {404, 409, 412}
"""What somebody who came too late may be answered; whatever else is not a success is a fault."""

pytestmark = pytest.mark.timeout(600)


@define
class Fire:
    """What all clients work on, and what was acknowledged to them."""

    units: UnitsOfWork
    project_id: str
    experiment_id: str
    main: str
    neighbours: list[str]
    sensors: list[str]
    edits: dict[str, list[int]] = field(factory=lambda: defaultdict(list))
    """The versions of a run that came of what certainly changed it."""
    tags: dict[str, set[str]] = field(factory=lambda: defaultdict(set))
    retagged: Counter[str] = field(factory=Counter)
    increments: list[str] = field(factory=list)
    sessions: dict[str, list[dict[str, Any]]] = field(factory=lambda: defaultdict(list))
    artifacts: list[str] = field(factory=list)
    unbound: Counter[tuple[str, str]] = field(factory=Counter)
    succeeded: set[str] = field(factory=set)
    """The request ids of whatever was answered with success."""
    answers: Counter[str] = field(factory=Counter)

    @property
    def runs(self) -> list[str]:
        return [self.main, *self.neighbours]


class Hand(Client):
    """One of the clients: what it does next is left to its dice."""

    def __init__(self, app: Any, fire: Fire, number: int, dice: random.Random) -> None:
        self.is_editor = number % 5 == 0
        role = "editor" if self.is_editor else "owner"
        super().__init__(app, token_of(f"hand-{number}", projects={fire.project_id: role}))
        self.fire, self.number, self.dice = fire, number, dice
        self.names = map(f"hand-{number}-{{}}".format, count(1))

    async def tried(self, method: str, path: str, json: Any = None, **headers: str) -> httpx.Response | None:
        """The answer, or None where somebody else was first."""
        name = next(self.names)
        if method == "POST" and self.dice.random() < 0.5:
            headers["Idempotency-Key"] = name
        more: dict[str, Any] = {} if json is None else {"json": json}
        answer = await self.send(method, path, headers={"X-Request-Id": name, **headers}, **more)
        assert answer.headers["x-request-id"] == name
        self.fire.answers[f"{method} {answer.status_code}"] += 1
        assert "deadlock" not in answer.text.lower()
        if answer.is_success:
            self.fire.succeeded.add(name)
            return answer
        assert answer.status_code in REFUSED, f"{method} {path}: {answer.status_code} {answer.text}"
        return None

    async def work(self) -> None:
        """Everything that this client does."""
        ways = [self.count_up] * 5 + [self.edit] * 2 + [self.tag] * 3 + [self.move] * 2 + [self.move_many] * 2
        ways += [self.record] * 3 + [self.bind] * 2 + [self.link]
        for step in range(OPERATIONS):
            await self.dice.choice(ways)()
            if step == OPERATIONS - 2 and self.number % 10 == 0:
                await self.move(self.fire.main, "finish")

    async def count_up(self) -> None:
        """Read, add one, write: over again whenever somebody else has written in between."""
        token = next(self.names)
        while True:
            run = await self.done("GET", f"/runs/{self.fire.main}")
            log = [*run["metadata"].get("log", []), token]
            edit = {"metadata": {**run["metadata"], "log": log}, "params": {"count": len(log)}}
            found = await self.tried("PATCH", f"/runs/{self.fire.main}", edit, **{"If-Match": f'"{run["version"]}"'})
            if found is not None:
                break
        assert found.json()["version"] == run["version"] + 1
        self.fire.increments.append(token)
        self.fire.edits[self.fire.main].append(run["version"] + 1)

    async def edit(self) -> None:
        run_id = self.dice.choice(self.fire.runs)
        found = await self.tried("PATCH", f"/runs/{run_id}", {"notes": next(self.names)})
        if found is not None:
            self.fire.edits[run_id].append(found.json()["version"])

    async def tag(self) -> None:
        """Add a tag of one's own to some runs, and perhaps take it away from a part of them again."""
        tag = next(self.names)
        marked = await self.retag(self.some_runs(), add_tags=[tag])
        if marked and self.dice.random() < 0.5:
            cleared = await self.retag(self.dice.sample(marked, self.dice.randint(1, len(marked))), remove_tags=[tag])
            marked = [run_id for run_id in marked if run_id not in cleared]
        for run_id in marked:
            self.fire.tags[run_id].add(tag)

    async def retag(self, run_ids: Sequence[str], **tags: Any) -> list[str]:
        found = await self.tried("POST", "/runs:bulk-tags", {"run_ids": run_ids, **tags})
        assert found is not None
        outcomes = found.json()["items"]
        assert [outcome["run_id"] for outcome in outcomes] == run_ids
        done = [outcome for outcome in outcomes if outcome["ok"]]
        # A run has room for so many tags; an archived one for none.
        assert {outcome["error"]["code"] for outcome in outcomes if not outcome["ok"]} <= {"archived", "invalid"}
        for outcome in done:
            self.fire.edits[outcome["run_id"]].append(outcome["version"])
            self.fire.retagged[outcome["run_id"]] += 1
        return [outcome["run_id"] for outcome in done]

    async def move(self, run_id: str | None = None, verb: str | None = None) -> None:
        verb = verb or self.dice.choice(["start"] * 6 + ["finish", "fail", "archive"])
        run_id = run_id or self.dice.choice(self.fire.neighbours)
        if self.is_editor and verb == "archive":
            return  # an editor may not
        await self.tried("POST", f"/runs/{run_id}/{verb}", {"reason": next(self.names)})

    async def move_many(self) -> None:
        status = self.dice.choice(["running"] * 6 + list(ENDS[: 2 if self.is_editor else 3]))
        run_ids = [run_id for run_id in self.some_runs() if run_id != self.fire.main] or self.fire.neighbours[:1]
        atomic = self.dice.random() < 0.5
        body = {"run_ids": run_ids, "status": status, "atomic": atomic, "reason": next(self.names)}
        found = await self.tried("POST", "/runs:batch-status", body)
        if found is not None:
            outcomes = found.json()["items"]
            assert all(outcome["status"] == status for outcome in outcomes if outcome["ok"])
            assert all(outcome["ok"] for outcome in outcomes) or not atomic

    async def record(self) -> None:
        """A session of the run; started, and stopped again, where nobody else is recording."""
        run_id = self.dice.choice([self.fire.main, *self.fire.runs])
        start = self.dice.random() < 0.3
        found = await self.tried("POST", f"/runs/{run_id}/capture-sessions", {"start": start})
        if found is None:
            return
        session = found.json()
        self.fire.sessions[run_id].append(session)
        path = f"/capture-sessions/{session['id']}"
        if not start and self.dice.random() < 0.7:
            start = await self.tried("POST", f"{path}/start", {"reason": next(self.names)}) is not None
        if start:
            outcome = self.dice.choice(["succeeded", "failed"])
            stop = {"outcome": outcome, "reason": next(self.names)}
            # Twice at once, like a client that has lost patience: it is over once, and perhaps archived by then.
            answers = await asyncio.gather(*(self.tried("POST", f"{path}/stop", stop) for _ in range(2)))
            assert any(answer is not None for answer in answers)

    async def bind(self) -> None:
        run_id, sensor_id = self.dice.choice(self.fire.runs), self.dice.choice(self.fire.sensors)
        if self.dice.random() < 0.6:
            await self.tried("PUT", f"/runs/{run_id}/sensors/{sensor_id}")
        elif await self.tried("DELETE", f"/runs/{run_id}/sensors/{sensor_id}") is not None:
            self.fire.unbound[run_id, sensor_id] += 1

    async def link(self) -> None:
        run_id = self.dice.choice(self.fire.runs)
        link = {"name": next(self.names), "uri": "s3://models/surrogate.onnx"}
        found = await self.tried("POST", f"/runs/{run_id}/artifacts", link)
        if found is None:
            return
        artifact_id = found.json()["id"]
        self.fire.artifacts.append(artifact_id)
        if not self.is_editor:
            verbs = (self.tried("POST", f"/artifacts/{artifact_id}/{verb}") for verb in ("approve", "reject"))
            assert (await asyncio.gather(*verbs)).count(None) == 1

    def some_runs(self) -> list[str]:
        """Some runs, in any order: those of others overlap with them in another one."""
        return self.dice.sample(self.fire.runs, self.dice.randint(1, 4))


async def kindled(app: Any, units: UnitsOfWork) -> tuple[Fire, Client]:
    owner = Client(app, token_of("owner"))
    project = await owner.done("POST", "/projects", {"name": "Under fire"}, 201)
    experiment = await owner.done("POST", "/experiments", {"project_id": project["id"], "name": "Experiment"}, 201)
    path = f"/experiments/{experiment['id']}/runs"
    runs = [(await owner.done("POST", path, {"name": f"Run {n}"}, 201))["id"] for n in range(NEIGHBOURS + 1)]
    kind = {"project_id": project["id"], "sensor_type": "TC", "input_unit": "mV", "display_unit": "°C"}
    sensors = [(await owner.done("POST", "/sensors", {"name": f"TC-{n}", **kind}, 201))["id"] for n in range(SENSORS)]
    for run_id in runs:
        await owner.done("PUT", f"/runs/{run_id}/sensors/{sensors[0]}")
    await owner.done("POST", f"/runs/{runs[0]}/start")
    return Fire(units, project["id"], experiment["id"], runs[0], runs[1:], sensors), owner


@pytest.mark.parametrize("seed", [int(os.environ.get("UNDER_FIRE_SEED", "20260309"))])
def test_fifty_clients_on_one_run(seed: int, module_postgres_url: str):
    print(f"UNDER_FIRE_SEED={seed}")

    async def burn() -> None:
        async with contended(module_postgres_url) as units:
            app = app_over(units)
            fire, owner = await kindled(app, units)
            hands = [Hand(app, fire, number, random.Random(f"{seed}-{number}")) for number in range(CLIENTS)]
            async with asyncio.TaskGroup() as group:
                for hand in hands:
                    group.create_task(hand.work())
            made = {"sessions": sum(map(len, fire.sessions.values())), "artifacts": len(fire.artifacts)}
            print(f"answers: {dict(sorted(fire.answers.items()))}, made: {made}")
            await Ashes(fire, owner).sift()

    asyncio.run(burn())


class Ashes:
    """What is there afterwards, held against what was acknowledged."""

    def __init__(self, fire: Fire, owner: Client) -> None:
        self.fire, self.owner = fire, owner
        self.records: dict[str, list[dict[str, Any]]] = defaultdict(list)

    async def sift(self) -> None:
        await self.gather_records()
        await self.no_increment_is_lost()
        for run_id in self.fire.runs:
            await self.a_run_is_as_acknowledged(run_id)
            await self.sessions_are_numbered(run_id)
        experiment = await self.owner.done("GET", f"/experiments/{self.fire.experiment_id}")
        moves = await self.moves_in_a_line("experiment", "experiments", experiment)
        assert [move["reason"] for move in moves] == ["its first run was started"]
        for artifact_id in self.fire.artifacts:
            artifact = await self.owner.done("GET", f"/artifacts/{artifact_id}")
            await self.moves_in_a_line("artifact", "artifacts", artifact)
        await self.the_audit_log_is_whole()

    async def every(self, path: str, **query: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        while True:
            part = await self.owner.done("GET", path, params={"limit": 500, **query})
            items += part["items"]
            if part["next_cursor"] is None:
                return items
            query["cursor"] = part["next_cursor"]

    async def gather_records(self) -> None:
        for record in reversed(await self.every("/audit", project_id=self.fire.project_id)):
            self.records[record["target_id"]].append(record)

    async def no_increment_is_lost(self) -> None:
        run = await self.owner.done("GET", f"/runs/{self.fire.main}")
        assert sorted(run["metadata"]["log"]) == sorted(self.fire.increments)
        assert run["params"] == {"count": len(self.fire.increments)}

    async def a_run_is_as_acknowledged(self, run_id: str) -> None:
        run = await self.owner.done("GET", f"/runs/{run_id}")
        moves = await self.moves_in_a_line("run", "runs", run)
        assert set(run["tags"]) == self.fire.tags[run_id]
        # Each change was acknowledged as a version of its own, and there were no others.
        edits = self.fire.edits[run_id]
        assert len(set(edits)) == len(edits)
        assert run["version"] == 1 + len(edits) + len(moves)
        tagged = [event for event in await self.events(f"run/{run_id}") if event == "run.tagged"]
        assert len(tagged) == self.fire.retagged[run_id]
        bindings = Counter(
            (record["action"], (record["after"] or record["before"])["sensor_id"])
            for record in self.records[run_id]
            if record["action"] in ("bind", "unbind")
        )
        bound = {it["sensor_id"] for it in (await self.owner.done("GET", f"/runs/{run_id}/sensors"))["items"]}
        for sensor_id in self.fire.sensors:
            assert bindings["unbind", sensor_id] == self.fire.unbound[run_id, sensor_id]
            assert bindings["bind", sensor_id] == bindings["unbind", sensor_id] + (sensor_id in bound)

    async def sessions_are_numbered(self, run_id: str) -> None:
        sessions = await self.every(f"/runs/{run_id}/capture-sessions")
        made = self.fire.sessions[run_id]
        assert [session["ordinal"] for session in reversed(sessions)] == list(range(1, len(made) + 1))
        assert {(it["id"], it["ordinal"]) for it in sessions} == {(it["id"], it["ordinal"]) for it in made}
        for session in sessions:
            moves = await self.moves_in_a_line("capture_session", "capture-sessions", session)
            timeline = await self.every(f"/capture-sessions/{session['id']}/events")
            assert [event["type"] for event in timeline] == [
                "capture.created",
                *(f"capture.{_EVENTS.get(move['to'], move['to'])}" for move in moves),
            ]
            assert _ascend(event["at"] for event in timeline)

    async def moves_in_a_line(self, noun: str, path: str, entity: dict[str, Any]) -> list[dict[str, Any]]:
        """The history of a thing, which leads to its status step by step, as events and audit records do."""
        moves = (await self.owner.done("GET", f"/{path}/{entity['id']}/history"))["items"]
        first = "pending" if noun == "artifact" else "draft"
        statuses = [first, *(move["to"] for move in moves)]
        assert [move["from"] for move in moves] == statuses[:-1]
        assert statuses[-1] == entity["status"]
        assert _ascend(move["at"] for move in moves)
        assert all(move["at"] <= entity["updated_at"] for move in moves)
        told = [event for event in await self.events(f"{noun}/{entity['id']}") if event not in _NO_MOVES]
        assert [event.partition(".")[2] for event in told] == [_EVENTS.get(move["to"], move["to"]) for move in moves]
        records = [it for it in self.records[entity["id"]] if it["action"] not in ("bind", "unbind")]
        versions = [(it["before"] and it["before"]["version"], it["after"]["version"]) for it in records]
        assert versions == [(None, 1), *pairwise(range(1, entity["version"] + 1))]
        assert _ascend(record["at"] for record in records)
        return moves

    async def events(self, subject: str) -> list[str]:
        found = await ask(self.fire.units, lambda uow: uow.events.of(subject, limit=10_000, after=None))
        return [recorded.event.type for recorded in found]

    async def the_audit_log_is_whole(self) -> None:
        records = [record for found in self.records.values() for record in found]
        # Whatever was done was acknowledged; of what was refused there is nothing.
        by_hands = {it["request_id"] for it in records if it["actor"].startswith("hand-")}
        assert by_hands <= self.fire.succeeded
        verified = await self.owner.done("GET", "/audit/verify", params={"project_id": self.fire.project_id})
        assert verified["ok"], verified["first_broken"]
        assert verified["records"] == len(records)


_EVENTS = {"running": "started", "succeeded": "completed"}
_NO_MOVES = {"experiment.created", "run.created", "run.tagged", "capture.created", "artifact.registered"}


def _ascend(moments: Iterable[str]) -> bool:
    return all(one <= other for one, other in pairwise(moments))
