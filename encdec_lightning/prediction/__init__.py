"""Files of sources in, files of texts out."""
