"""The HTTP API of the experiment service, and the `experiment-service` command."""
