"""The stages that commands run inside a run directory: one module and one artifact per stage."""
