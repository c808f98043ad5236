"""The commands, a file each: what a command takes, which stage does it, how its result is shown."""
