"""The live state of a run, and the three ways to see it: `onerec status`, `onerec top` and a web page."""
