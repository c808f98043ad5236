"""What an architecture costs, and the architectures that a budget allows. numpy and scipy; never torch."""
