"""Commands of an operator. The service imports none of them."""
