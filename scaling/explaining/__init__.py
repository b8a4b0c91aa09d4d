"""What a fit says: which law, which factor matters, what the approaches agree on."""
