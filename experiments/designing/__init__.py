"""The verb that says which runs to buy: its options, its inputs and what it prints."""
