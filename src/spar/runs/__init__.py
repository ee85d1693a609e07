"""A run on disk: its configuration, its tables, its checkpoints, and the experiment that fills them."""
