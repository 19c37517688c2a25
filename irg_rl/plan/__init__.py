"""Estimates what a recipe costs, without running it: memory, time, and the settings that make it fit."""
