"""A job's numbers: patch and block, memory as a sum, the plan."""
