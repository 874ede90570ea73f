"""From affinities to objects, the same for every cut: tables of blocks, joined by least and most and integer sums.

=============================  =====================================================================================
module                         purpose
=============================  =====================================================================================
segmenting, connecting         `segment`, `watershed`; `connected_components`
stages                         `region_graph`, `agglomerate`, `relabel`, `remove_dust`: on labels from anywhere
result                         `Segmentation`: labels, tables, other thresholds
edges                          affinities and boundary maps as they come, turned at the door
basins, flowing, contacts      the watershed of a block; its compiled loops; its region graph and faces
components                     the components of a block, and their joins
joining                        regions: tables of blocks joined in any tree, plateaus and exits resolved
graph, merging, agglomerating  the region graph in integers; merging by size; mean affinity, as a dendrogram
merges, reducing               both of them in a tree of groups; the tree itself, up and down
fragments, running             blocks cut and stored, and read under final labels; the passes, one after another
=============================  =====================================================================================
"""
