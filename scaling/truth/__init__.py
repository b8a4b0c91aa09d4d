"""The proof: known surfaces are simulated, fitted by the shipped code, and the answers counted. See __main__.py."""
