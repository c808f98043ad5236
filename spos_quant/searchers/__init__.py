"""Searchers propose architectures and never touch a model; evaluators judge them. To add a searcher: one file."""
