"""Tasks that come with the program, one file for each. The shapes world is larger and has its own package."""
