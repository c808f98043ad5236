"""Choice blocks, operators and the supernet that holds every candidate with shared weights."""
