"""Training goes on in an environment: what is lived there joins the log, and every environment step is followed by an update."""
