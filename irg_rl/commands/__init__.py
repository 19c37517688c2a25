"""The commands of the program `irg-rl`. Each command has its own file. The module `cli` defines the options of all
commands, and imports the file of a command only when the user calls this command."""
