"""The registry of laws: one short file for each family of laws."""
