"""The desk: the pages that the service serves to be read at, plain files that need no build and no network."""
