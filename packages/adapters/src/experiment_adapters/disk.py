"""The disk of this machine: what is on it for good."""

import os
from pathlib import Path


def sync_directory(path: Path) -> None:
    """Have the names in a directory outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
