"""The corpus cloud-docs-large: cloud-docs, and the documentation inside google-api-python-client."""
