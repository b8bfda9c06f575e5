"""One file per kind of video: containers, images, animations and arrays."""
