"""The OpenAPI document, the AsyncAPI document of events, and a page that shows the first."""

from experiment_http.schema.asyncapi import asyncapi
from experiment_http.schema.document import openapi
from experiment_http.schema.routes import routes

__all__ = ["asyncapi", "openapi", "routes"]
