"""Exports on their way out: the formats of files, and where they are kept."""
