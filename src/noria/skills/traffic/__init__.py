"""What users asked and what they got: samples, pools, drift, the funnel of a skill."""
