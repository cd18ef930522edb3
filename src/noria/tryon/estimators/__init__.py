"""Hands, body pose and masks of one person of a clip, by MediaPipe's tflite files.

`detection` and `crops` are the mathematics of MediaPipe's graphs (anchors, boxes, turned crops), `models` runs the
files, `hands` and `persons` estimate one frame, `drawing` makes pictures and masks of a pose, `following` goes through
a clip. The files are Apache-2.0 and come with `noria assets mediapipe`; `ai-edge-litert` runs them.
"""
