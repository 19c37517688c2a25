"""Tasks that come with the program, one file each. The shapes world, which is more, has its own package."""
