"""Stored volumes: copied, deleted, described.

=============  ====================================================
module         purpose
=============  ====================================================
copying        `copy`: another place, other chunks, another format
deleting       `delete`: a volume, or what dead runs left beside it
describing     `info`: levels, arrays, sections, the run beside
=============  ====================================================
"""
