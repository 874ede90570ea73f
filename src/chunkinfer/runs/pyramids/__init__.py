"""Pyramids: the coarser levels of a stored image.

=========  =======================================================
module     purpose
=========  =======================================================
planning   which levels, their chunks, and which come from one pass
building   `pyramid`: passes run, recorded, announced
=========  =======================================================
"""
