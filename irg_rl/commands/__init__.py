"""The `irg-rl` commands, one file for each. `cli` defines the options of all commands. It loads the file of a command
only when the command is called."""
