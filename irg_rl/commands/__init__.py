"""One file per `irg-rl` command; `cli` holds their options and loads a command's file only when it is called."""
