"""Ways to run a network, one a file, behind one contract."""
