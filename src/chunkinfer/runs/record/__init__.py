"""What a run leaves on disk: the header, finished blocks, and who is writing."""
