"""`audit`: boxes of a finished output against the whole-volume definition, and what is wrong."""
