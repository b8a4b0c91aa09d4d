"""The corpus cloud-docs: documentation of cloud services that ships inside the botocore package."""
