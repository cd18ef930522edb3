"""The loop beside the service: what it reads in the log, how it steers, and what it proposes."""
