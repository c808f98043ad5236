"""Searchers propose architectures without access to a model; evaluators score them. A new searcher is one file."""
