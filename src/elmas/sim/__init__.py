"""The simulator: traces of requests, replayed through the server's own code, against the best that could be had."""
