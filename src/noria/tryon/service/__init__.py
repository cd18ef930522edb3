"""The service: garments tried on in the operator's clips, as jobs over HTTP."""
