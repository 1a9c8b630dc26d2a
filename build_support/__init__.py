"""What the build of the distribution does besides copying files: generate the gRPC stubs."""
