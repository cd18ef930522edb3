"""Hands: 21 joints of each in metres, from files and estimators, repaired, and drawn as depth and normals."""
