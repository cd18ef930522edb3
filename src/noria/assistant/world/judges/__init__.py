"""The shop's judges: rules and a ridge regression on two hundred noisy labels each, and the server that asks them."""
