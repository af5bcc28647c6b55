"""`python -m experiment_worker`."""

from experiment_worker.main import main

main()
