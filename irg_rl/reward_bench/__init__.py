"""Measures scorers: how far they can be trusted, how much noise they have, and what they do not see."""
