"""`python -m experiment_http.cli` is the `experiment-service` command."""

import sys

from experiment_http.cli import main

sys.exit(main())
