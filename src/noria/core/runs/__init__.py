"""Run folders: settings, metrics, checkpoints, exact resume; work spread over processes."""
