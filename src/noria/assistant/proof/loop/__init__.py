"""The proof of the loop as a whole, on the simulated shop: seasons, its parts in turn, planted harm, logs and pictures.

```
claims.py    the claims
tables.py    tables and notes beside them
seed.py      what a seed runs
seasons.py   the loop beside no loop, training once, and a loop without hostile users
testing.py   A/B tests by the functions of the service: on users, and dealt again from answers that are there
parts.py     each part of the shop left out in turn
bodies.py    what the learner of bodies gives
harm.py      candidates that were planted to do harm, and one that is the champion itself
logged.py    what a randomised log says of a version before its test
looking.py   an answerer that does not look at the picture
imported.py  the loop on imported logs, over HTTP
```
"""
