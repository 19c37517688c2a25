"""What a recipe costs before anything is started: memory, time, and the settings that make it fit."""
