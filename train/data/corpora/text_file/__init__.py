"""A corpus of the user's own: one UTF-8 text file, or one JSON object with a text on each line."""
