"""Filters around the media of a namespace: each may look at, hold or change operations on their way to the engine."""
