"""Other libraries' interfaces over camfast's engine: change the import line, keep the script."""
