"""The resources of version 1: one module per noun, with its operations and its request and answer structs."""

from collections.abc import Sequence

from experiment_http.operations import Operation, Operations
from experiment_http.sockets import Socket
from experiment_http.v1 import (
    artifacts,
    audit,
    backfills,
    captures,
    cards,
    conversions,
    events,
    experiments,
    exports,
    grids,
    integrations,
    members,
    metrics,
    projects,
    runs,
    sensors,
    telemetry_in,
    telemetry_live,
    telemetry_out,
    telemetry_socket,
    webhook_deliveries,
    webhooks,
)

NOUNS: Sequence[Operations] = (
    projects.operations,
    members.operations,
    experiments.operations,
    runs.operations,
    cards.operations,
    captures.operations,
    backfills.operations,
    artifacts.operations,
    integrations.operations,
    sensors.operations,
    conversions.operations,
    telemetry_in.operations,
    telemetry_socket.operations,
    telemetry_live.operations,
    telemetry_out.operations,
    grids.operations,
    exports.operations,
    metrics.operations,
    events.operations,
    webhooks.operations,
    webhook_deliveries.operations,
    audit.operations,
)


def operations() -> Sequence[Operation]:
    """Every operation of every noun."""
    return [operation for noun in NOUNS for operation in noun.declared]


def sockets() -> Sequence[Socket]:
    """Every WebSocket."""
    return [telemetry_socket.socket]
