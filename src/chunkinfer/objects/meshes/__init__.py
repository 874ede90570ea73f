"""Meshes of the objects of a label volume.

=============  =====================================================================================
module         purpose
=============  =====================================================================================
meshing        `mesh`: the two passes, and the report
marching       the pass over blocks: surfaces by block; surfaces: the adapter to zmesh
stitching      the pass over objects: pieces put together, simplified, written
welding        pieces joined by equal vertices, in one order; volume
simplifying    fewer triangles within an error; collapsing: its compiled loops
octree         levels of detail, cut into cubes
formats        Neuroglancer's bytes: legacy, multi-resolution, shards
places         where meshes go, and how a segmentation tells of them
=============  =====================================================================================
"""
