"""Where calls come in: gRPC and the admin port. Doors translate, and decide nothing."""
