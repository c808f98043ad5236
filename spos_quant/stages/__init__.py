"""What a command does inside a run directory: one module per stage, each leaving its artifact."""
