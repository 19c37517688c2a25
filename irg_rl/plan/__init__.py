"""Estimates how much memory and time a recipe needs, without running it. Also finds settings with which the recipe fits
into the memory of the GPU."""
