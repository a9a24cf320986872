"""The tasks of GLUE and the built-in one: from the Hub, or folders of files with their columns."""
