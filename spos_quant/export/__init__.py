"""Exporters of deployable files. Every export checks that the file gives the outputs of the model."""
