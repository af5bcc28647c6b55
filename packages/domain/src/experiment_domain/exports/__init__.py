"""Exports: the readings of many sessions as one file, written part by part and kept for a while."""
