"""Pictures of a volume: planes of any size, read at the level that fits."""
