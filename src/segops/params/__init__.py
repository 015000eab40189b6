"""The parameters, a module for each section of ``params.yaml``, and the file as a whole."""
