"""Builds SFT data for the six learning modes of IRG from prompts and first images.

A teacher (a multimodal model) writes the texts, somebody draws improved images, and a judge decides what is kept. Every
answer is written to a log as soon as it arrives, so an interrupted build continues. What is left out is counted and
named. `survey.py` looks at finished folders, also at those of others.
"""
