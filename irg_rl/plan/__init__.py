"""Estimates what a recipe costs without running it: memory and time. Also finds settings that make the recipe fit."""
