"""The report of a suite run, made from the files of its trials alone: a page for a browser, and Markdown."""
