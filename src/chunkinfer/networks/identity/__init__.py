"""What a network is, by the operators and code that it runs; the same network where it is sent."""
