"""What all suites share: PostgreSQL where its driver is installed, and how hard Hypothesis looks."""

import os
from importlib.util import find_spec

from hypothesis import settings

# The domain's unit tests run where nothing but the domain is installed.
pytest_plugins = ["fix_postgres", "fix_redis", "fix_adapters", "fix_coverage"] if find_spec("psycopg") else []

settings.register_profile("ci", max_examples=60, stateful_step_count=30, deadline=None, print_blob=True)
settings.register_profile("nightly", max_examples=2_000, stateful_step_count=80, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
