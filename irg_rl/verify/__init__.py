"""Checks on a user's machine that a model folder is whole, and that sampling and training work with it. The result is
one page and one JSON file, without secrets and without paths (docs/verify.md)."""
