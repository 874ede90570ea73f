"""What volumes show: objects, their surfaces and centrelines, and how well they are found."""
