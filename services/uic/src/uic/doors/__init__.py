"""The ports that clients connect to: gRPC and admin. They translate, and decide nothing."""
