"""From a table to constants with intervals."""
