"""The claims of DDA-Thinker, tested in a world of pictures with exact answers, and the speed of its parts."""
