"""Trackers: what shows a sweep's curves while it runs. They read its files; nothing that trains knows of them."""
