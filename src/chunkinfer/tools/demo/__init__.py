"""The main job on a volume that the package makes, and the score of its result."""
