"""The competitors, one file each, named as in the literature."""
