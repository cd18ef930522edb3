"""The web page for people: chat with pictures, what tools show, feedback, accounts, and their data."""
