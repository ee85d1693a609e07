"""Logs: the schema, the readers, the one scaler, the datasets that ship, and the recipes that made them."""
