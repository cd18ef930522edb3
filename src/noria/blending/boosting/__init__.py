"""Plans' boosts into scores, and scores into places: the linear form, its guards, rules on places."""
