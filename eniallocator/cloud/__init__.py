"""The counterparty in the cloud: OpenAPI and metadata service, in words of our own."""
