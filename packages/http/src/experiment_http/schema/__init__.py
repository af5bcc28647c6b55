"""The OpenAPI document, and a page that shows it."""

from experiment_http.schema.document import openapi
from experiment_http.schema.routes import routes

__all__ = ["openapi", "routes"]
