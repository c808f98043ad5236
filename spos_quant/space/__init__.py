"""Search spaces, architectures and bit configurations. May import errors, config and registry; never torch."""
