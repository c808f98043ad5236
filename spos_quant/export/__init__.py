"""Writers of deployable files, each with a check that the file answers as the model does. One format, one entry."""
