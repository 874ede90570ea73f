"""Ways to use the package: the command line, pipelines, viewers, clusters, the demo."""
