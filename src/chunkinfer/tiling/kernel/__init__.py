"""A block's computation: gather patches, run, blend or crop, convert."""
