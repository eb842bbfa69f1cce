"""The command line: parse, compose, call one library function, print, return an exit code."""
