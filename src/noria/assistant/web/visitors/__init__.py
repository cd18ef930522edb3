"""Who visits: accounts, signed cookies, and the conversations of each."""
