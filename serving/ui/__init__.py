"""The desk: the files of its pages, which need no build and no other origin, and the routes that serve them."""
