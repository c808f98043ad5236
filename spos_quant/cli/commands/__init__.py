"""One module per command: its options, the stage that it calls, and how its result is printed."""
