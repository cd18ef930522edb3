"""From a clip and a garment to the clip in that garment: conditions, sampling, long clips, what it will cost."""
