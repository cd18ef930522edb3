"""Which skill a query triggers: routers, their calibration, and how well they do."""
