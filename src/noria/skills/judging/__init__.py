"""How good an answer was: rules, judges, tiers, blame, and how good the judge is."""
