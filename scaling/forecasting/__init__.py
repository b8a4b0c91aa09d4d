"""From constants to what a bigger run will do: forecasts, optima, and the ledger that holds them."""
