"""`asyncapi`: the document that describes all events."""

import json


def asyncapi() -> None:
    """Print the AsyncAPI document of all events on standard output: their types, and where they are found.

    A running API has the same at /schema/asyncapi.json.
    """
    from experiment_http import schema  # noqa: PLC0415 - help needs no framework

    print(json.dumps(schema.asyncapi(), ensure_ascii=False, indent=2))
