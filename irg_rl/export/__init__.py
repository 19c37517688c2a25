"""Writes a checkpoint as a folder that can be published: weights in bf16, settings files, model card, adapters."""
