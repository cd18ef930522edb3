"""Interactive video virtual try-on: hands and timed actions drive the garment.

The paper is iTryOn (Zheng et al. 2026, arXiv 2605.21431), which trains Wan2.1-VACE to dress the person of a video in
another garment while the person unzips, lifts or adjusts it. Neither code nor weights are published; where the paper
is silent, a docstring says "reconstructed".

Read in this order:

| room | what it is |
| --- | --- |
| `actions` | what a user says: timed actions from JSON, SRT or WebVTT |
| `attention` | the mathematics: `segments` of a clip, the `rotary` embedding A-RoPE, the action-aware `constraint` |
| `model` | `ITryOnTransformer3DModel` on diffusers' `WanVACETransformer3DModel` |
"""
