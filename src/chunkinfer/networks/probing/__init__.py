"""The contract of a network that nobody can look into, found by changing its inputs."""
