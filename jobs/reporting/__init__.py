"""The report of an output: one HTML file for somebody who wasn't there."""
