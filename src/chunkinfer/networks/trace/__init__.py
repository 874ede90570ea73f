"""Trace a network: the context, period, crop and sizes of each axis, found by running it without data.

``trace`` runs the network under a dispatch mode that sees every ATen operator and knows what each reads, so it needs no
cooperation from the network, follows any control flow, and names the layer that keeps a network from being tiled
exactly. ``at_lengths`` is the same for a volume's own lengths. ``check_patches`` confirms a lattice at the sizes of its
patch and of the volume. ``nan_probe`` measures the same, independently.
"""
