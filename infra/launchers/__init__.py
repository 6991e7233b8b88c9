"""One module per kind of launcher file: settings in, the content of the file out."""
